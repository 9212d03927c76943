"""Minimal pairs: two sentences of which a model should find one likelier, as in BLiMP.

Ref: Warstadt et al., "BLiMP: The Benchmark of Linguistic Minimal Pairs" (arXiv:1912.00582).
"""

from collections.abc import Iterable, Sequence

import msgspec
from msgspec import Struct

from service.core.errors import InvalidRequest
from service.core.scores.score import TextScore


class MinimalPair(Struct, frozen=True, kw_only=True):
    """An acceptable sentence and one that differs from it and is not acceptable."""

    good: str
    bad: str
    group: str | None = None
    """Phenomenon or paradigm that the pair is about."""


class PairResult(Struct, frozen=True, kw_only=True):
    """Pairs of a group that a model judged, and how many of them rightly."""

    group: str | None
    """None: all pairs."""
    pairs: int
    right: int
    accuracy: float


class _Line(Struct, frozen=True):
    good: str | None = None
    bad: str | None = None
    sentence_good: str | None = None
    sentence_bad: str | None = None
    paradigm: str | None = None
    UID: str | None = None
    phenomenon: str | None = None
    linguistics_term: str | None = None


def read_pairs(lines: Iterable[bytes | str]) -> tuple[MinimalPair, ...]:
    """Read JSON Lines with `good` and `bad`, or BLiMP's `sentence_good` and `sentence_bad`.

    The group is `phenomenon`, `linguistics_term`, `paradigm` or `UID`, whichever comes first.
    Raises InvalidRequest naming the line.
    """
    found: list[MinimalPair] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            read = msgspec.json.decode(line, type=_Line)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise InvalidRequest(f"line {number}: {error}", param="pairs") from error
        good, bad = read.good or read.sentence_good, read.bad or read.sentence_bad
        if not good or not bad:
            raise InvalidRequest(
                f"line {number}: a pair has `good` and `bad`, or `sentence_good` and "
                "`sentence_bad`",
                param="pairs",
            )
        group = read.phenomenon or read.linguistics_term or read.paradigm or read.UID
        found.append(MinimalPair(good=good, bad=bad, group=group))
    return tuple(found)


def texts_of(pairs: Iterable[MinimalPair]) -> tuple[str, ...]:
    """Texts to score: each pair's acceptable sentence, then its other one."""
    return tuple(text for pair in pairs for text in (pair.good, pair.bad))


def judged(scores: Sequence[TextScore]) -> tuple[bool, ...]:
    """By pair: the acceptable sentence is likelier. *scores* are those of `texts_of`.

    The log-probability of the whole sentence decides, as in BLiMP; a tie is a wrong judgement.
    """
    good, bad = scores[::2], scores[1::2]
    return tuple(
        ours.log_probability > theirs.log_probability
        for ours, theirs in zip(good, bad, strict=True)
    )


def pair_results(pairs: Sequence[MinimalPair], right: Sequence[bool]) -> tuple[PairResult, ...]:
    """Accuracy over all pairs, then by group in the order of the pairs."""
    groups: dict[str | None, list[bool]] = {None: list(right)}
    for pair, each in zip(pairs, right, strict=True):
        if pair.group is not None:
            groups.setdefault(pair.group, []).append(each)
    return tuple(
        PairResult(group=group, pairs=len(each), right=sum(each), accuracy=sum(each) / len(each))
        for group, each in groups.items()
        if each
    )
