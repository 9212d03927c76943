"""Value of a cached entry: prefill time saved, times decayed hits, for each byte; pure arithmetic.

After Marconi (arXiv 2411.19379), which evicts what saves the fewest operations for a byte. Here the
operations are the model's own measured prefill time.
"""

import math
from typing import Final

HALF_LIFE_S: Final = 600.0
"""Time after which a hit counts half."""


def first_weight(now_s: float) -> float:
    """Weight of an entry that is stored now, which counts as one hit: log2, decay left out.

    Hits decay alike for all entries, so their order does not depend on the time at which they are
    compared: a hit at time t weighs 2**(t / HALF_LIFE_S), and nothing has to be recomputed later.
    """
    return now_s / HALF_LIFE_S


def hit(weight: float, now_s: float) -> float:
    """Weight after one more hit: log2 of the sum of both."""
    more = now_s / HALF_LIFE_S
    low, high = sorted((weight, more))
    return high + math.log2(1 + 2.0 ** (low - high))


def priority(*, saved_ns: float, weight: float, unshared_bytes: int) -> float:
    """Log2 of an entry's value for each byte that its eviction frees; the lowest goes first."""
    return math.log2(max(saved_ns, 1.0)) + weight - math.log2(max(unshared_bytes, 1))
