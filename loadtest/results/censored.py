"""Percentiles over requests of which some never ended well: those rank above every value."""

from collections.abc import Sequence
from typing import Literal

from msgspec import Struct

from service.core.metrics import P95_FROM, P99_FROM
from service.core.metrics import rank as index_of

Ranked = float | Literal["censored"] | None


class CensoredQuantiles(Struct, frozen=True, kw_only=True):
    """Nearest-rank percentiles of known values and of censored ones, which rank above them.

    A percentile is "censored" where it falls on a request without a whole answer: its value is
    larger than every one that was seen. It is None where there are too few requests to tell.
    """

    count: int
    """Known and censored values together."""
    censored: int
    p50: Ranked
    p95: Ranked
    """Only from 72 values."""
    p99: Ranked
    """Only from 368 values."""
    max: Ranked


def censored_quantiles(known: Sequence[float], censored: int) -> CensoredQuantiles:
    """Percentiles of *known* values, in their unit, with *censored* ones above them."""
    ordered = sorted(known)
    count = len(ordered) + censored

    def rank(share: float, least: int = 1) -> Ranked:
        if count < least:
            return None
        index = index_of(count, share)
        return ordered[index] if index < len(ordered) else "censored"

    return CensoredQuantiles(
        count=count,
        censored=censored,
        p50=rank(0.50),
        p95=rank(0.95, P95_FROM),
        p99=rank(0.99, P99_FROM),
        max=rank(1.0),
    )
