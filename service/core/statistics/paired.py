"""Paired comparisons of two arms that answered the same prompts."""

import math
from collections import defaultdict
from collections.abc import Hashable, Sequence
from typing import Final, Literal

import numpy as np
from msgspec import Struct

from service.core.statistics import intervals, shares, signed_rank

#: Fewer pairs cannot give 95 % confidence: six pairs of one sign have a probability of 1/32.
MINIMUM_PAIRS: Final = 6

Scale = Literal["ratio", "difference"]
Direction = Literal["lower", "higher"]


class Pair(Struct, frozen=True, kw_only=True):
    """Values of both arms on one prompt, in one repetition."""

    prompt: Hashable
    """What repetitions have in common: prompt, context and turn."""
    a: float
    b: float


class Comparison(Struct, frozen=True, kw_only=True):
    """One metric of two arms compared, before it is judged among all others."""

    metric: str
    arms: tuple[str, str]
    scale: Scale
    better: Direction
    estimate: float | None = None
    """b/a, or b - a on the scale `difference`."""
    low: float | None = None
    high: float | None = None
    n: int = 0
    """Independent pairs."""
    p: float | None = None
    """That arms which are the same differ so much; None where nothing was tested."""
    exact: bool = False
    """Every repetition gave the same values: `low` and `high` are the range over prompts."""
    refused: str | None = None
    """Why the arms cannot be compared."""
    note: str | None = None
    """What a reader must know about the pairs."""


def refuse(
    metric: str, arms: tuple[str, str], reason: str, *, better: Direction = "lower", n: int = 0
) -> Comparison:
    """Return a comparison that was not made, with its reason."""
    return Comparison(metric=metric, arms=arms, scale="ratio", better=better, n=n, refused=reason)


def too_few(count: int) -> str:
    """Return the reason of a refusal."""
    return f"{_pairs(count)}, {MINIMUM_PAIRS} needed"


def _pairs(count: int) -> str:
    return f"{count} {'pair' if count == 1 else 'pairs'}"


def compare_ratios(
    metric: str, arms: tuple[str, str], pairs: Sequence[Pair], *, better: Direction = "lower"
) -> Comparison:
    """Compare positive values, such as latencies, by the median of the pairs' ratios b/a.

    The interval is of order statistics, the probability of Wilcoxon's signed-rank test on the
    logarithms; docs/decisions/0013-intervals-of-ratios.md says why.
    Repetitions of a prompt are not independent: each prompt counts once, by the median of its
    repetitions. Only if there is a single prompt are its repetitions the pairs, and `note` says so.
    """
    usable = [pair for pair in pairs if pair.a > 0 and pair.b > 0]
    ratios: dict[Hashable, list[float]] = defaultdict(list)
    for pair in usable:
        ratios[pair.prompt].append(math.log(pair.b / pair.a))
    without = len(pairs) - len(usable)
    notes = [f"{_pairs(without)} without positive values left out"] * (without > 0)
    if _repeats_exactly(usable):
        return _exact(metric, arms, better, np.array([each[0] for each in ratios.values()]), notes)
    if len(ratios) == 1:
        values = np.array(next(iter(ratios.values())))
        notes.append("repetitions of one prompt: says nothing about other prompts")
    else:
        values = np.array([float(np.median(each)) for each in ratios.values()])
    if len(values) < MINIMUM_PAIRS:
        reason = too_few(len(values))
        return refuse(metric, arms, reason, better=better, n=len(values))
    center = intervals.median(values.tolist())
    return Comparison(
        metric=metric,
        arms=arms,
        scale="ratio",
        better=better,
        estimate=math.exp(center.value),
        low=None if center.low is None else math.exp(center.low),
        high=None if center.high is None else math.exp(center.high),
        n=len(values),
        p=signed_rank.p_value(values),
        note="; ".join(notes) or None,
    )


def compare_shares(
    metric: str, arms: tuple[str, str], pairs: Sequence[Pair], *, better: Direction = "higher"
) -> Comparison:
    """Compare right (1) and wrong (0) answers by the difference of their shares, b - a.

    McNemar's exact test with Tango's interval. Of several repetitions of a question the first
    counts: greedy answers repeat themselves.
    """
    first: dict[Hashable, Pair] = {}
    for pair in pairs:
        first.setdefault(pair.prompt, pair)
    if len(first) < MINIMUM_PAIRS:
        reason = too_few(len(first))
        return refuse(metric, arms, reason, better=better, n=len(first))
    right = [(bool(round(pair.a)), bool(round(pair.b))) for pair in first.values()]
    table = shares.Table(
        both=right.count((True, True)),
        only_a=right.count((True, False)),
        only_b=right.count((False, True)),
        neither=right.count((False, False)),
    )
    difference = shares.difference(table)
    return Comparison(
        metric=metric,
        arms=arms,
        scale="difference",
        better=better,
        estimate=difference.value,
        low=difference.low,
        high=difference.high,
        n=table.n,
        p=shares.mcnemar(table),
        note="repetitions of a question counted once" if len(pairs) > len(first) else None,
    )


def _repeats_exactly(pairs: Sequence[Pair]) -> bool:
    """Return whether every prompt was repeated, always with the same two values."""
    seen: dict[Hashable, list[tuple[float, float]]] = defaultdict(list)
    for pair in pairs:
        seen[pair.prompt].append((pair.a, pair.b))
    return bool(seen) and all(len(values) > 1 and len(set(values)) == 1 for values in seen.values())


def _exact(
    metric: str,
    arms: tuple[str, str],
    better: Direction,
    values: np.ndarray,
    notes: list[str],
) -> Comparison:
    """Compare values that carry no noise: nothing is estimated, so nothing is tested."""
    return Comparison(
        metric=metric,
        arms=arms,
        scale="ratio",
        better=better,
        estimate=math.exp(float(np.median(values))),
        low=math.exp(float(values.min())),
        high=math.exp(float(values.max())),
        n=len(values),
        exact=True,
        note="; ".join(["every repetition gave the same values", *notes]),
    )
