"""Wilcoxon's signed-rank test of paired differences."""

from typing import Final

import numpy as np
from scipy import stats

#: Up to so many differences the null distribution is counted out, above it is nearly normal.
_COUNTED: Final = 50


def p_value(differences: np.ndarray) -> float:
    """Return the two-sided probability of such differences if arms do not differ.

    Supposes no more than that the arms of a pair are then exchangeable. Differences of 0 say
    nothing and are left out.
    """
    differing = differences[differences != 0]
    if not differing.size:
        return 1.0
    distinct = len(np.unique(np.abs(differing))) == len(differing)
    method = "exact" if distinct and len(differing) <= _COUNTED else "approx"
    return float(stats.wilcoxon(differing, method=method, correction=True).pvalue)
