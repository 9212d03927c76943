"""Estimates with confidence intervals: medians, percentiles and shares."""

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from msgspec import Struct
from scipy import stats

CONFIDENCE: Final = 0.95
#: Observations below which a median has no interval.
_LEAST: Final = 5


class Estimate(Struct, frozen=True, kw_only=True):
    """A value estimated from `n` observations, with the interval that holds the true one."""

    value: float
    low: float | None
    """None where `n` observations carry no interval."""
    high: float | None
    n: int
    confidence: float = CONFIDENCE
    """Of the interval; 1 where all observations are the same value, so that it is a point."""


def exact(value: float, n: int) -> Estimate:
    """Return the estimate of a value that every observation repeated."""
    return Estimate(value=value, low=value, high=value, n=n, confidence=1.0)


def median(values: Sequence[float]) -> Estimate:
    """Estimate the median; its interval supposes no distribution and needs five observations.

    Interpolated order statistics: T. P. Hettmansperger, S. J. Sheather, "Confidence intervals based
    on interpolated order statistics", Statistics & Probability Letters 4 (1986). Five observations
    reach only 93.75 % between least and greatest; the estimate then carries that confidence.

    Raises:
        ValueError: if there are no values.
    """
    ordered = np.sort(_checked(values))
    n = len(ordered)
    value = float(np.median(ordered))
    if n > 1 and ordered[0] == ordered[-1]:
        return exact(value, n)
    coverage = [1 - 2 * float(stats.binom.cdf(rank - 1, n, 0.5)) for rank in range(1, n // 2 + 1)]
    if n < _LEAST:
        return Estimate(value=value, low=None, high=None, n=n, confidence=0.0)
    if coverage[0] < CONFIDENCE:
        low, high = float(ordered[0]), float(ordered[-1])
        return Estimate(value=value, low=low, high=high, n=n, confidence=coverage[0])
    rank = sum(share >= CONFIDENCE for share in coverage)
    wider = coverage[rank - 1]
    narrower = coverage[rank] if rank < len(coverage) else 0.0
    part = (wider - CONFIDENCE) / (wider - narrower)
    weight = (n - rank) * part / (rank + (n - 2 * rank) * part)
    low = (1 - weight) * ordered[rank - 1] + weight * ordered[rank]
    high = (1 - weight) * ordered[n - rank] + weight * ordered[n - rank - 1]
    return Estimate(value=value, low=float(low), high=float(high), n=n)


def observations_for(share: float) -> int:
    """Return how many observations an interval of the percentile at `share` needs.

    The greatest must lie above it, and the least below it, in all but 2.5 % of samples each: 6 for
    the median, 72 for p95, 368 for p99.
    """
    return math.ceil(math.log((1 - CONFIDENCE) / 2) / math.log(max(share, 1 - share)))


def percentile(values: Sequence[float], share: float) -> Estimate | None:
    """Estimate a percentile with an order-statistic interval; None with too few observations.

    The confidence is at least 95 %: order statistics come in steps.

    Raises:
        ValueError: if `share` is not within (0, 1).
    """
    if not 0 < share < 1:
        raise ValueError(f"share must lie between 0 and 1, not {share}")
    n = len(values)
    if n < observations_for(share):
        return None
    ordered = np.sort(_checked(values))
    low_rank = max(int(stats.binom.ppf((1 - CONFIDENCE) / 2, n, share)), 1)
    high_rank = min(int(stats.binom.ppf((1 + CONFIDENCE) / 2, n, share)) + 1, n)
    within = stats.binom.cdf(high_rank - 1, n, share) - stats.binom.cdf(low_rank - 1, n, share)
    return Estimate(
        value=float(np.quantile(ordered, share)),
        low=float(ordered[low_rank - 1]),
        high=float(ordered[high_rank - 1]),
        n=n,
        confidence=float(within),
    )


def wilson(successes: int, n: int) -> Estimate:
    """Estimate a share, with the score interval of E. B. Wilson (JASA 22, 1927).

    Raises:
        ValueError: if `n` is 0, or `successes` is not within 0 and n.
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"a share needs 0 <= successes <= n and n >= 1, not {successes} of {n}")
    within = stats.binomtest(successes, n).proportion_ci(CONFIDENCE, method="wilson")
    return Estimate(value=successes / n, low=float(within.low), high=float(within.high), n=n)


def _checked(values: Sequence[float]) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    if not array.size:
        raise ValueError("an estimate needs at least one observation")
    if not np.isfinite(array).all():
        raise ValueError("observations must be finite: leave unknown ones out")
    return array
