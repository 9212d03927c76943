"""Curves of a metric against context: medians, and the line or parabola through them."""

from collections.abc import Mapping, Sequence
from typing import Final, Literal

import numpy as np
from msgspec import Struct
from scipy import stats

from service.core.statistics.intervals import CONFIDENCE, Estimate, median

#: Fewer contexts carry no curve: a line goes through any two points.
MINIMUM_CONTEXTS: Final = 3
#: A parabola must fit this much better than a line, by the F-test, before it is preferred.
QUADRATIC_ALPHA: Final = 0.01

_ROUNDING: Final = 1e-11

Samples = Mapping[int, Sequence[float]]
"""Observations by context in tokens."""

Form = Literal["linear", "quadratic"]


class Point(Struct, frozen=True, kw_only=True):
    """Median at one context."""

    context_tokens: int
    median: Estimate


class Fit(Struct, frozen=True, kw_only=True):
    """`a + b·L`, or `a + b·L + c·L²`, over contexts L in tokens."""

    form: Form
    coefficients: tuple[float, ...]
    lows: tuple[float | None, ...]
    """Of each coefficient's 95 % interval; None where the points leave no degree of freedom."""
    highs: tuple[float | None, ...]
    r_squared: float | None
    """Share of the medians' variance that the curve explains; None if they do not vary."""
    low_tokens: int
    """Least context that was measured: the curve says nothing below."""
    high_tokens: int

    def at(self, tokens: float) -> float:
        """Return the curve's value at a context."""
        return float(np.polynomial.polynomial.polyval(tokens, self.coefficients))


def points(samples: Samples) -> list[Point]:
    """Return the median at each context, in order of context."""
    return [
        Point(context_tokens=tokens, median=median(values))
        for tokens, values in sorted(samples.items())
        if len(values)
    ]


def fit(samples: Samples) -> Fit | None:
    """Fit a curve to medians by weighted least squares; None with fewer than three contexts.

    Weights are 1 / median²: what disturbs a latency grows with it. The parabola is chosen if an
    F-test at 1 % says that it earns its third coefficient.
    """
    found = {tokens: values for tokens, values in samples.items() if len(values)}
    if len(found) < MINIMUM_CONTEXTS:
        return None
    contexts = np.array(sorted(found), dtype=np.float64)
    medians = np.array([float(np.median(found[int(tokens)])) for tokens in contexts])
    weights = weights_of(medians)
    linear = _solve(contexts, medians, weights, 1)
    degree = 1
    if len(contexts) > MINIMUM_CONTEXTS:
        quadratic = _solve(contexts, medians, weights, 2)
        degree = 2 if _earns(linear[1], quadratic[1], len(contexts), medians, weights) else 1
    coefficients, _ = linear if degree == 1 else quadratic
    lows, highs = _intervals(contexts, medians, weights, degree)
    return Fit(
        form="linear" if degree == 1 else "quadratic",
        coefficients=tuple(float(value) for value in coefficients),
        lows=lows,
        highs=highs,
        r_squared=_r_squared(contexts, medians, coefficients),
        low_tokens=int(contexts[0]),
        high_tokens=int(contexts[-1]),
    )


def weights_of(medians: np.ndarray) -> np.ndarray:
    """Return the weights of squared residuals; all alike if a median is 0."""
    return np.ones_like(medians) if np.any(medians == 0) else 1 / medians**2


def solver(contexts: np.ndarray, weights: np.ndarray, degree: int) -> np.ndarray:
    """Return the matrix that turns medians into coefficients."""
    # Contexts are scaled while solving: squares of thousands beside ones lose digits.
    scale = float(contexts.max())
    design = np.vander(contexts / scale, degree + 1, increasing=True)
    root = np.sqrt(weights)[:, None]
    inverse = np.linalg.pinv(design * root) * root.T
    return np.asarray(inverse / scale ** np.arange(degree + 1)[:, None])


def _solve(
    contexts: np.ndarray, medians: np.ndarray, weights: np.ndarray, degree: int
) -> tuple[np.ndarray, float]:
    """Return coefficients, and the weighted sum of squared residuals."""
    coefficients = solver(contexts, weights, degree) @ medians
    # What is nothing but rounding is nothing: a constant state has a slope of 0.
    terms = np.abs(coefficients) * contexts.max() ** np.arange(degree + 1)
    coefficients = np.where(terms < _ROUNDING * np.abs(medians).max(), 0.0, coefficients)
    residuals = medians - np.polynomial.polynomial.polyval(contexts, coefficients)
    return coefficients, float(np.sum(weights * residuals**2))


def _earns(
    linear: float, quadratic: float, count: int, medians: np.ndarray, weights: np.ndarray
) -> bool:
    """Return whether the parabola's residuals are so much smaller that chance is unlikely."""
    if linear <= 1e-18 * float(np.sum(weights * medians**2)):
        return False
    if quadratic <= 1e-15 * linear:
        return True
    ratio = (linear - quadratic) / (quadratic / (count - 3))
    return float(stats.f.sf(ratio, 1, count - 3)) < QUADRATIC_ALPHA


def _intervals(
    contexts: np.ndarray, medians: np.ndarray, weights: np.ndarray, degree: int
) -> tuple[tuple[float | None, ...], tuple[float | None, ...]]:
    """Return lower and upper bounds of the coefficients, by Student's t on the residuals."""
    freedom = len(contexts) - degree - 1
    if freedom < 1:
        return (None,) * (degree + 1), (None,) * (degree + 1)
    matrix = solver(contexts, weights, degree)
    coefficients, squares = _solve(contexts, medians, weights, degree)
    if squares <= _ROUNDING**2 * float(np.sum(weights * medians**2)):
        found = tuple(coefficients.tolist())
        return found, found
    deviations = np.sqrt(np.sum(matrix**2 / weights, axis=1) * squares / freedom)
    half = deviations * stats.t.ppf((1 + CONFIDENCE) / 2, freedom)
    return tuple((coefficients - half).tolist()), tuple((coefficients + half).tolist())


def _r_squared(contexts: np.ndarray, medians: np.ndarray, coefficients: np.ndarray) -> float | None:
    spread = float(np.sum((medians - medians.mean()) ** 2))
    if spread == 0:
        return None
    residuals = medians - np.polynomial.polynomial.polyval(contexts, coefficients)
    return 1 - float(np.sum(residuals**2)) / spread
