"""Wilcoxon's signed-rank test, and the estimate and interval that belong to it."""

import numpy as np
from scipy import stats

from service.core.statistics.intervals import CONFIDENCE, Estimate, exact

#: Up to so many observations the null distribution is counted out, above it is nearly normal.
_COUNTED = 50
#: Up to so many observations all Walsh averages are held: 16 MB.
_HELD = 2000


def center(values: np.ndarray) -> Estimate:
    """Estimate the centre of a sample: Hodges and Lehmann's median of all pairwise means.

    The interval inverts the signed-rank test (M. Hollander, D. A. Wolfe, "Nonparametric Statistical
    Methods", 3.2-3.3): exact if values scatter symmetrically, as logarithms of paired ratios do
    when arms differ by a factor. Fewer than six values carry no interval of 95 %.
    """
    n = len(values)
    if n > 1 and np.ptp(values) == 0:
        return exact(float(values[0]), n)
    rank = _rank(n)
    if n > _HELD:
        total = n * (n + 1) // 2
        value, low, high = (
            _walsh_quantile(values, k) for k in (total // 2, rank - 1, total - rank)
        )
        return Estimate(value=value, low=low, high=high, n=n)
    rows, columns = np.triu_indices(n)
    averages = np.sort((values[rows] + values[columns]) / 2)
    value = float(np.median(averages))
    if rank < 1:
        return Estimate(value=value, low=None, high=None, n=n, confidence=0.0)
    return Estimate(value=value, low=float(averages[rank - 1]), high=float(averages[-rank]), n=n)


def p_value(values: np.ndarray) -> float:
    """Return the two-sided probability of values so far from 0 if they scatter around it."""
    if not np.any(values):
        return 1.0
    ranks = stats.rankdata(np.abs(values[values != 0]))
    n = len(ranks)
    if n <= _COUNTED and len(np.unique(ranks)) == n:
        positive = float(ranks[values[values != 0] > 0].sum())
        least = min(positive, n * (n + 1) / 2 - positive)
        return min(1.0, 2 * float(_counts(n)[: int(least) + 1].sum()))
    return float(stats.wilcoxon(values, method="approx", correction=True).pvalue)


def _rank(n: int) -> int:
    """Return which Walsh average from either end bounds the interval; 0 if none does."""
    tail = (1 - CONFIDENCE) / 2
    if n <= _COUNTED:
        return int(np.searchsorted(np.cumsum(_counts(n)), tail, side="right"))
    mean = n * (n + 1) / 4
    deviation = np.sqrt(n * (n + 1) * (2 * n + 1) / 24)
    return int(np.floor(mean - stats.norm.ppf(1 - tail) * deviation))


def _counts(n: int) -> np.ndarray:
    """Return the null distribution of the sum of positive ranks, from 0 to n(n+1)/2."""
    shares = np.ones(1)
    for rank in range(1, n + 1):
        grown = np.zeros(len(shares) + rank)
        grown[: len(shares)] += shares / 2
        grown[rank:] += shares / 2
        shares = grown
    return shares


def _walsh_quantile(values: np.ndarray, k: int) -> float:
    """Return the Walsh average of rank `k` (from 0), by bisection: none of them is stored."""
    ordered = np.sort(values)
    n = len(ordered)
    low, high = float(ordered[0]), float(ordered[-1])
    for _ in range(60):
        middle = (low + high) / 2
        partners = np.searchsorted(ordered, 2 * middle - ordered, side="right")
        at_most = int(np.maximum(partners - np.arange(n), 0).sum())
        low, high = (low, middle) if at_most > k else (middle, high)
    return high
