"""The context at which the curves of two arms cross."""

from functools import lru_cache
from typing import Final

import numpy as np
from msgspec import Struct

from service.core.statistics.curves import Fit, Samples, fit, solver, weights_of
from service.core.statistics.intervals import CONFIDENCE

RESAMPLES: Final = 2000
_TAIL: Final = (1 - CONFIDENCE) / 2
#: Medians of more observations are calibrated as those of so many.
_CALIBRATED: Final = 60


class Crossover(Struct, frozen=True, kw_only=True):
    """Where two curves cross, or why that cannot be said."""

    context_tokens: float | None
    low: float | None
    """None where the interval reaches below the least context measured."""
    high: float | None
    """None where the interval reaches beyond the greatest context measured."""
    lower_before: int | None = None
    """Which curve (0 or 1) is lower before they cross; without a crossing, in the whole range.

    None where that is uncertain too.
    """
    reason: str | None = None
    """Why there is no crossing, or what the interval lacks."""


def crossover(a: Samples, b: Samples, *, seed: int = 0, resamples: int = RESAMPLES) -> Crossover:
    """Return the context at which the fits of two arms cross, with a bootstrap interval.

    Observations are resampled within each context and arm, and the same forms fitted to their
    medians again; deviations are scaled by `_calibration`, because resampled medians of few
    observations scatter too much. Only contexts that both arms have are used.
    """
    shared = sorted(tokens for tokens in a if len(a[tokens]) and len(b.get(tokens, ())))
    first = {tokens: a[tokens] for tokens in shared}
    second = {tokens: b[tokens] for tokens in shared}
    fits = fit(first), fit(second)
    if fits[0] is None or fits[1] is None:
        return Crossover(
            context_tokens=None,
            low=None,
            high=None,
            reason=f"contexts measured on both arms: {len(shared)}, 3 needed",
        )
    difference = _difference(fits[0], fits[1])
    contexts = np.array(shared, dtype=np.float64)
    gaps = np.polynomial.polynomial.polyval(contexts, difference)
    if np.allclose(gaps, 0, atol=1e-9 * max(abs(fits[0].at(shared[-1])), 1e-300)):
        return Crossover(
            context_tokens=None, low=None, high=None, reason="the curves are the same everywhere"
        )
    resampled = _resampled(first, fits[0], seed, resamples)
    resampled -= _resampled(second, fits[1], seed + 1, resamples)
    return _locate(difference, -resampled, contexts[0], contexts[-1])


def _difference(a: Fit, b: Fit) -> np.ndarray:
    """Return the coefficients of b's curve minus a's, three in all."""
    difference = np.zeros(3)
    difference[: len(b.coefficients)] += b.coefficients
    difference[: len(a.coefficients)] -= a.coefficients
    return difference


def _resampled(samples: Samples, fitted: Fit, seed: int, resamples: int) -> np.ndarray:
    """Return coefficients of resampled curves, a row a resample, three columns."""
    rng = np.random.default_rng(seed)
    contexts = np.array(sorted(samples), dtype=np.float64)
    medians = np.empty((resamples, len(contexts)))
    centers = np.empty(len(contexts))
    for column, tokens in enumerate(contexts):
        values = np.asarray(samples[int(tokens)], dtype=np.float64)
        n = len(values)
        centers[column] = np.median(values)
        drawn = np.median(values[rng.integers(n, size=(resamples, n))], axis=1)
        medians[:, column] = centers[column] + (drawn - centers[column]) * _calibration(n)
    degree = len(fitted.coefficients) - 1
    matrix = solver(contexts, weights_of(centers), degree)
    coefficients = np.zeros((resamples, 3))
    coefficients[:, : degree + 1] = medians @ matrix.T
    return coefficients


@lru_cache(maxsize=256)
def _calibration(n: int) -> float:
    """Return how much less medians of `n` observations scatter than resamples of them do.

    Simulated on normal observations. Without it, crossovers of five observations a context were
    covered by 99.7 % of intervals of 95 %.
    """
    if n == 1:
        return 1.0
    size = min(n, _CALIBRATED)
    rng = np.random.default_rng(size)
    samples = rng.standard_normal((1000, size))
    drawn = [
        np.var(np.median(sample[rng.integers(size, size=(200, size))], axis=1))
        for sample in samples
    ]
    medians = np.median(rng.standard_normal((20_000, size)), axis=1)
    return float(np.sqrt(np.var(medians) / np.mean(drawn)))


def _locate(difference: np.ndarray, resampled: np.ndarray, first: float, last: float) -> Crossover:
    roots = _crossings(difference[None, :], first, last)[0]
    lower_first = 0 if _value(difference, first) > 0 else 1
    others = _crossings(resampled, first, last)
    low, high = _bounds(others)
    inside = (low if np.isfinite(low) else None), (high if np.isfinite(high) else None)
    if not np.isfinite(roots):
        missed = float(np.mean(np.isfinite(others)))
        reason = f"the curves do not cross between {first:,.0f} and {last:,.0f} tokens"
        if missed > _TAIL:
            reason += f", but {missed:.0%} of resampled ones do"
        return Crossover(
            context_tokens=None,
            low=inside[0],
            high=inside[1],
            lower_before=lower_first if missed <= _TAIL else None,
            reason=reason,
        )
    if inside == (None, None):
        reason = f"too much noise to find it between {first:,.0f} and {last:,.0f} tokens"
        return Crossover(context_tokens=None, low=None, high=None, reason=reason)
    twice = "they cross twice, this is the first" * (_changes(difference, first, last) > 1)
    open_ends = _open_ends(inside[0], inside[1], first, last)
    return Crossover(
        context_tokens=float(roots),
        low=inside[0],
        high=inside[1],
        lower_before=lower_first,
        reason="; ".join(part for part in (twice, open_ends) if part) or None,
    )


def _bounds(crossings: np.ndarray) -> tuple[float, float]:
    """Return the percentile interval; infinite where it reaches out of the range."""
    ordered = np.sort(crossings)
    last = len(ordered) - 1
    return float(ordered[round(_TAIL * last)]), float(ordered[round((1 - _TAIL) * last)])


def _value(coefficients: np.ndarray, tokens: float) -> float:
    return float(np.polynomial.polynomial.polyval(tokens, coefficients))


def _crossings(rows: np.ndarray, first: float, last: float) -> np.ndarray:
    """Return each row's first crossing within the range; -inf or inf for one beyond its ends.

    A row that does not cross counts as crossing beyond the end where its curves are closer.
    """
    a, b, c = rows.T
    with np.errstate(divide="ignore", invalid="ignore"):
        root = np.sqrt(b**2 - 4 * a * c)
        straight = -a / b
        halves = -(b + np.copysign(root, b)) / 2
        both = np.stack(
            [np.where(c == 0, straight, halves / c), np.where(c == 0, straight, a / halves)]
        )
    within = np.isfinite(both) & (both >= first) & (both <= last)
    nearest = np.where(within, both, np.inf).min(axis=0)
    starts, ends = a + b * first + c * first**2, a + b * last + c * last**2
    outside = np.where(np.abs(starts) < np.abs(ends), -np.inf, np.inf)
    return np.where(np.isfinite(nearest), nearest, outside)


def _changes(coefficients: np.ndarray, first: float, last: float) -> int:
    grid = np.polynomial.polynomial.polyval(np.linspace(first, last, 1001), coefficients)
    signs = np.sign(grid[grid != 0])
    return int(np.sum(signs[1:] != signs[:-1]))


def _open_ends(low: float | None, high: float | None, first: float, last: float) -> str | None:
    if low is None:
        return f"the interval reaches below {first:,.0f} tokens, the least measured"
    if high is None:
        return f"the interval reaches beyond {last:,.0f} tokens, the most measured"
    return None
