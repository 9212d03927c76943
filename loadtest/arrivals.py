"""Arrival times as offsets in seconds: pure and seeded."""

from itertools import accumulate
from random import Random

from loadtest.plan import Arrivals


def offsets_s(arrivals: Arrivals, count: int, random: Random) -> tuple[float, ...]:
    """Offsets of *count* requests, ascending.

    `constant` sends the first at 0 and then every 1/rate seconds. `poisson` draws the gaps, the
    first one included, from an exponential distribution of mean 1/rate; they are not rescaled, so
    that the process stays Poisson and the count in a given time varies.
    """
    if arrivals.process == "constant":
        return tuple(number / arrivals.rate_per_s for number in range(count))
    gaps_s = (random.expovariate(arrivals.rate_per_s) for _ in range(count))
    return tuple(accumulate(gaps_s))
