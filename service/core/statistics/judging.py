"""Judging of comparisons: which arm is better, the same, or cannot be told."""

import math
from collections.abc import Sequence
from typing import Final

from scipy import stats

from service.core.statistics.intervals import CONFIDENCE
from service.core.statistics.paired import Comparison
from service.core.statistics.verdict import NO_DIFFERENCE, UNDECIDED, Kind, Verdict

ALPHA: Final = 1 - CONFIDENCE
#: More pairs than this are not worth a number.
MANY_PAIRS: Final = 100_000


def holm(probabilities: Sequence[float]) -> list[float]:
    """Return probabilities adjusted for being many: S. Holm, Scand. J. Statistics 6 (1979)."""
    count = len(probabilities)
    adjusted = [0.0] * count
    greatest = 0.0
    for place, index in enumerate(sorted(range(count), key=probabilities.__getitem__)):
        greatest = max(greatest, min(1.0, (count - place) * probabilities[index]))
        adjusted[index] = greatest
    return adjusted


def judge(comparisons: Sequence[Comparison], *, margin: float) -> list[Verdict]:
    """Judge comparisons of one report together.

    - Same within the margin: the 95 % interval lies within it, which is stricter than two
      one-sided tests at 5 %.
    - Better: Holm's probability is below 5 % and the estimate lies beyond the margin.
    - Undecided: anything else. Absence of evidence is never called a lack of difference.
    """
    tested = [place for place, each in enumerate(comparisons) if each.p is not None]
    adjusted = dict(
        zip(tested, holm([comparisons[place].p or 0.0 for place in tested]), strict=True)
    )
    return [
        _judge(each, adjusted.get(place), len(tested), margin)
        for place, each in enumerate(comparisons)
    ]


def _judge(each: Comparison, p: float | None, holm_over: int, margin: float) -> Verdict:
    kind = _kind(each, p, margin)
    verdict, reason, settle = UNDECIDED, each.refused or each.note, None
    if kind == "resolved":
        verdict = _better(each)
    elif kind == "equivalent":
        verdict = NO_DIFFERENCE
    elif kind == "unresolved":
        settle = None if each.exact else pairs_to_settle(each, margin=margin, tests=holm_over)
        reason = "; ".join(part for part in (_undecided_reason(each, settle), each.note) if part)
    is_ratio = each.scale == "ratio"
    return Verdict(
        metric=each.metric,
        arms=each.arms,
        ratio=each.estimate if is_ratio else None,
        difference=None if is_ratio else each.estimate,
        low=each.low,
        high=each.high,
        n=each.n,
        verdict=verdict,
        reason=reason,
        kind=kind,
        p=p,
        holm=0 if p is None else holm_over,
        exact=each.exact,
        margin=margin,
        pairs_to_settle=settle,
    )


def _kind(each: Comparison, p: float | None, margin: float) -> Kind:
    if each.refused is not None or each.estimate is None:
        return "not_tested"
    if each.low is None or each.high is None:
        return "unresolved"
    center = 1.0 if each.scale == "ratio" else 0.0
    low, high, estimate = each.low - center, each.high - center, each.estimate - center
    if -margin <= low and high <= margin:
        return "equivalent"
    if each.exact:
        return "resolved" if low > margin or high < -margin else "unresolved"
    apart = low > 0 or high < 0
    if p is not None and p < ALPHA and apart and abs(estimate) > margin:
        return "resolved"
    return "unresolved"


def _better(each: Comparison) -> str:
    center = 1.0 if each.scale == "ratio" else 0.0
    b_is_lower = each.estimate is not None and each.estimate < center
    return each.arms[1] if b_is_lower == (each.better == "lower") else each.arms[0]


def pairs_to_settle(each: Comparison, *, margin: float, tests: int = 1) -> int | None:
    """Return about how many pairs would give a verdict; None if no number below 100,000 would.

    Supposes that the estimate is the truth and that intervals shrink with the root of n. A truth
    beyond the margin needs an interval without equality, at Holm's strictest level; one within
    the margin needs an interval inside of it.
    """
    if each.estimate is None or each.low is None or each.high is None or each.n == 0:
        return None
    if each.scale == "ratio":
        estimate, half = math.log(each.estimate), math.log(each.high / each.low) / 2
        allowed = math.log1p(margin)
    else:
        estimate, half, allowed = each.estimate, (each.high - each.low) / 2, margin
    if abs(estimate) > allowed:
        stricter = stats.norm.ppf(1 - ALPHA / 2 / max(tests, 1)) / stats.norm.ppf(1 - ALPHA / 2)
        needed = each.n * (half * stricter / abs(estimate)) ** 2
    elif abs(estimate) < allowed:
        needed = each.n * (half / (allowed - abs(estimate))) ** 2
    else:
        return None
    rounded = _two_digits(max(needed, each.n + 1))
    return rounded if rounded <= MANY_PAIRS else None


def _two_digits(value: float) -> int:
    """Round up to two digits: a planning figure is no more exact."""
    step = 10 ** max(int(math.log10(value)) - 1, 0)
    return int(math.ceil(value / step) * step)


def _undecided_reason(each: Comparison, settle: int | None) -> str:
    if each.low is None or each.high is None:
        return "too few pairs for an interval"
    if each.exact:
        return "the range over prompts reaches both sides of the margin"
    if settle is None:
        return f"more than {MANY_PAIRS:,} pairs would be needed to settle it"
    return f"about {settle:,} pairs would settle it"
