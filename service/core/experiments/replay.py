"""Replays: recorded answers beside new ones to the same conversations, as pure functions."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Final, Literal

from msgspec import Struct

from service.core.compare.comparison import Difference, difference
from service.core.experiments.trial import Trial

#: Numbers that are compared, and whether less of them is better.
METRICS: Final[dict[str, bool]] = {
    "ttft_ms": True,
    "tpot_ms": True,
    "prefill_ms": True,
    "decode_ms": True,
    "e2e_ms": True,
    "bytes_per_s": False,
    "prompt_tokens": True,
    "completion_tokens": True,
    "completion_bytes": True,
    "memory_bytes": True,
}
#: Of these a pair says something whether its model had to be loaded or not.
_WITHOUT_TIME: Final = frozenset(
    {"prompt_tokens", "completion_tokens", "completion_bytes", "memory_bytes"}
)
ALONE: Final = (
    "the recorded answers ran beside whatever else there was, the new ones alone: a difference in "
    "time is not the models' alone; name the recorded model as an arm to compare them alike"
)
REUSED: Final = (
    "some recorded answers reused states of earlier requests, which the new ones did not: their "
    "TTFT and prefill differ for that too"
)


class Original(Struct, frozen=True, kw_only=True):
    """A recorded answer."""

    request_id: str
    model: str | None
    values: dict[str, float | None]
    cold: bool
    reused: bool
    """It was answered with states of earlier requests."""
    text_sha256: str | None
    """None where the answer was not stored."""


class ReplayPair(Struct, frozen=True, kw_only=True):
    """A recorded answer and a new one to the same conversation."""

    original: str
    """Key of the recorded request."""
    replay: str | None
    """Key of the new request; None if it was not accepted."""
    arm: int
    model: str
    original_model: str | None
    repetition: int
    error: str | None
    same_text: bool | None
    """None where either text is unknown."""
    cold: bool
    """Either waited for its model to load: its times are left out of `ratios`."""
    reused: bool
    """The recorded answer reused states of earlier requests."""
    differences: dict[str, Difference]
    """New minus recorded, and new over recorded."""


class ReplayRatio(Struct, frozen=True, kw_only=True):
    """Typical ratio of a number, new over recorded."""

    median: float | None
    """Median of the pairs' ratios."""
    center: float | None
    """Hodges-Lehmann centre of the pairs' ratios, which the interval belongs to."""
    low: float | None
    high: float | None
    n: int
    """Pairs with both numbers, above 0."""
    note: str | None
    """Why there is no interval, or what to know about it."""


class ReplayArm(Struct, frozen=True, kw_only=True):
    """An arm against the recorded answers."""

    arm: int
    model: str
    pairs: int
    failed: int
    cold: int
    same_text: int
    texts: int
    """Pairs whose texts are both known."""
    ratios: dict[str, ReplayRatio]
    caveats: tuple[str, ...]


def pair_of(trial: Trial, original: Original, model: str) -> ReplayPair:
    """Pair a trial that has ended with the recorded answer that it repeats."""
    names = METRICS if trial.state == "done" else ()
    ours = {
        **trial.values,
        "prompt_tokens": trial.prompt_tokens,
        "completion_tokens": trial.completion_tokens,
    }
    texts = (trial.text_sha256, original.text_sha256)
    return ReplayPair(
        original=original.request_id,
        replay=trial.request_id,
        arm=trial.arm,
        model=model,
        original_model=original.model,
        repetition=trial.repetition,
        error=trial.error,
        same_text=None if None in texts else texts[0] == texts[1],
        cold=trial.cold or original.cold,
        reused=original.reused,
        differences={name: difference(ours.get(name), original.values.get(name)) for name in names},
    )


def arm_of(arm: int, model: str, pairs: Sequence[ReplayPair]) -> ReplayArm:
    """Summarize the pairs of one arm."""
    done = [pair for pair in pairs if pair.error is None]
    compared = [pair.same_text for pair in done if pair.same_text is not None]
    return ReplayArm(
        arm=arm,
        model=model,
        pairs=len(pairs),
        failed=len(pairs) - len(done),
        cold=sum(pair.cold for pair in done),
        same_text=sum(compared),
        texts=len(compared),
        ratios={name: _ratio(name, done) for name in METRICS},
        caveats=tuple(
            words
            for words, holds in (
                (ALONE, bool(done)),
                (REUSED, any(pair.reused for pair in done)),
            )
            if holds
        ),
    )


def _ratio(metric: str, pairs: Sequence[ReplayPair]) -> ReplayRatio:
    """Each conversation counts once, by the median of its repetitions."""
    by_original: dict[str, list[float]] = {}
    for pair in pairs:
        ratio = pair.differences[metric].ratio
        if ratio is not None and ratio > 0 and (metric in _WITHOUT_TIME or not pair.cold):
            by_original.setdefault(pair.original, []).append(math.log(ratio))
    logs = {key: statistics.median(each) for key, each in by_original.items()}
    if not logs:
        return ReplayRatio(
            median=None, center=None, low=None, high=None, n=0, note="no pair has both numbers"
        )
    return _with_interval(metric, logs)


def _with_interval(metric: str, logs: Mapping[str, float]) -> ReplayRatio:
    from service.core.statistics.paired import Pair, compare_ratios  # with NumPy, not at start

    better: Literal["lower", "higher"] = "lower" if METRICS[metric] else "higher"
    pairs = [Pair(prompt=key, a=1.0, b=math.exp(value)) for key, value in logs.items()]
    found = compare_ratios(metric, ("recorded", "replayed"), pairs, better=better)
    return ReplayRatio(
        median=math.exp(statistics.median(logs.values())),
        center=found.estimate,
        low=found.low,
        high=found.high,
        n=len(logs),
        note=found.refused or found.note,
    )
