"""Fit: non-negative least squares of a few terms, weighted so that relative errors count."""

import itertools
from collections.abc import Sequence
from typing import Final

from msgspec import Struct

#: Values below this share of the median are weighted as if they had it: noise of short times.
_FLOOR: Final = 0.1


class Fit(Struct, frozen=True):
    """Coefficients of the terms; none is negative, so that no prediction is."""

    coefficients: tuple[float, ...]

    def at(self, *terms: float) -> float:
        """The sum of the terms times their coefficients."""
        return sum(map(float.__mul__, self.coefficients, map(float, terms)))


def fit(rows: Sequence[Sequence[float]], values: Sequence[float]) -> Fit | None:
    """Fit *values* by the terms in *rows*; None for fewer rows than terms that differ.

    All subsets of terms are solved, and the non-negative solution with the smallest error is the
    answer: exact for non-negative least squares, whose solution is the least-squares solution on
    the terms that it does not set to 0 (Lawson and Hanson, Solving Least Squares Problems, 1974,
    chapter 23), and cheap for the four terms or fewer that it is used for.
    """
    # NumPy takes a tenth of a second to import, and only routes by cost need it.
    import numpy as np

    if not rows:
        return None
    terms, wanted = np.array(rows, dtype=float), np.array(values, dtype=float)
    weights = 1 / np.maximum(wanted, max(_FLOOR * float(np.median(wanted)), 1e-12))
    terms, wanted = terms * weights[:, None], wanted * weights
    scale = np.sqrt((terms**2).sum(axis=0))
    used = [number for number, length in enumerate(scale) if length > 0]
    terms = terms[:, used] / scale[used]
    if not used or np.linalg.matrix_rank(terms) > len(terms) - 1:
        return None
    gram, moments = terms.T @ terms, terms.T @ wanted
    best: tuple[float, dict[int, float]] | None = None
    for count in range(1, len(used) + 1):
        for subset in itertools.combinations(range(len(used)), count):
            solved = np.linalg.lstsq(gram[np.ix_(subset, subset)], moments[list(subset)])[0]
            # Of the squared error only the part that depends on the coefficients.
            error = float(solved @ gram[np.ix_(subset, subset)] @ solved)
            error -= 2 * float(solved @ moments[list(subset)])
            if (solved >= 0).all() and (best is None or error < best[0] - 1e-12):
                best = error, {used[each]: float(x) for each, x in zip(subset, solved, strict=True)}
    if best is None:
        return None
    found = best[1]
    return Fit(
        tuple(
            found[number] / float(scale[number]) if number in found else 0.0
            for number in range(len(scale))
        )
    )
