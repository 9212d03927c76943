"""Comparison of a route's arms, valid however often it is looked at."""

import itertools
import math
from collections.abc import Iterable
from typing import Final

from msgspec import Struct

from service.core.metrics import derive
from service.core.record import RequestRecord
from service.core.statistics.sequential import (
    Moments,
    Sequential,
    compare_means,
    compare_shares,
)
from service.core.summary import served_id

#: Metrics whose logarithms are compared.
COMPARED: Final = ("ttft_ms", "tpot_ms", "e2e_ms")

#: Probability that any interval of a comparison ever misses the true value.
ALPHA: Final = 0.05

_FAULTS: Final = frozenset({"failed", "interrupted"})


class MetricComparison(Struct, frozen=True, kw_only=True):
    """How a metric of one arm relates to that of another."""

    metric: str
    """`ttft_ms`, `tpot_ms` or `e2e_ms`: the ratio of geometric means; `failed`: the difference of
    the shares of requests that failed."""
    estimate: float | None
    low: float | None
    """With `high`, an interval that is valid whenever it is looked at; null with too few."""
    high: float | None
    decided: bool
    """The interval excludes equality."""
    n: tuple[int, int]
    reason: str | None = None
    """Why there is no interval."""


class ArmComparison(Struct, frozen=True, kw_only=True):
    """One arm against another: ratios and differences are of `arm` to `base`."""

    base: str
    arm: str
    metrics: tuple[MetricComparison, ...]


class ArmMoments:
    """What the requests of each arm gave so far; constant in memory."""

    def __init__(self) -> None:
        self._logarithms: dict[tuple[str, str], Moments] = {}
        self._ended: dict[str, int] = {}
        self._failed: dict[str, int] = {}
        self.sticky = 0
        """Requests whose arm was that of their client."""

    def __repr__(self) -> str:
        return f"<ArmMoments {self._ended}>"

    def add(self, records: Iterable[RequestRecord]) -> int:
        """Take records in the order of time; return how many there were.

        Cancelled and refused requests say nothing about the arm, cold ones only whether it failed.
        """
        count = 0
        for record in records:
            count += 1
            self.sticky += (record.route_reason or "").startswith("sticky")
            arm = served_id(record.model, record.variant)
            if arm is None or record.status not in ("ok", *_FAULTS):
                continue
            self._ended[arm] = self._ended.get(arm, 0) + 1
            self._failed[arm] = self._failed.get(arm, 0) + (record.status in _FAULTS)
            if record.status == "ok" and not record.cold:
                self._measure(arm, record)
        return count

    def _measure(self, arm: str, record: RequestRecord) -> None:
        metrics = derive(record)
        for name in COMPARED:
            value: float | None = getattr(metrics, name)
            if value is not None and value > 0:
                known = self._logarithms.get((arm, name), Moments())
                self._logarithms[arm, name] = known.added(math.log(value))

    def comparisons(self, arms: Iterable[str]) -> tuple[ArmComparison, ...]:
        """Compare each pair of arms that answered."""
        answered = [arm for arm in arms if arm in self._ended]
        pairs = list(itertools.combinations(answered, 2))
        # Bonferroni: all intervals of a route hold together.
        alpha = ALPHA / max(1, len(pairs) * (len(COMPARED) + 1))
        return tuple(
            ArmComparison(base=base, arm=arm, metrics=self._metrics(base, arm, alpha))
            for base, arm in pairs
        )

    def _metrics(self, base: str, arm: str, alpha: float) -> tuple[MetricComparison, ...]:
        none = Moments()
        ratios = [
            _ratio(
                name,
                compare_means(
                    self._logarithms.get((base, name), none),
                    self._logarithms.get((arm, name), none),
                    alpha=alpha,
                ),
            )
            for name in COMPARED
        ]
        failures = compare_shares(
            self._failed[base], self._ended[base], self._failed[arm], self._ended[arm], alpha=alpha
        )
        return (*ratios, _difference("failed", failures))


def _ratio(metric: str, found: Sequential) -> MetricComparison:
    def exponential(value: float | None) -> float | None:
        return None if value is None else math.exp(value)

    return MetricComparison(
        metric=metric,
        estimate=exponential(found.difference),
        low=exponential(found.low),
        high=exponential(found.high),
        decided=found.decided,
        n=found.n,
        reason=found.reason,
    )


def _difference(metric: str, found: Sequential) -> MetricComparison:
    return MetricComparison(
        metric=metric,
        estimate=found.difference,
        low=found.low,
        high=found.high,
        decided=found.decided,
        n=found.n,
        reason=found.reason,
    )
