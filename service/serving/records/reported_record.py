"""Reported record: the recorded facts with the metrics derived from them."""

from msgspec import structs

from service.core.limits import LimitShares, MachineLimits, limit_shares
from service.core.metrics import RequestMetrics, derive
from service.core.record import RequestRecord


class ReportedRecord(RequestRecord, frozen=True, kw_only=True):
    """A record and its derived metrics."""

    metrics: RequestMetrics
    limits: LimitShares
    """Shares of the machine's limits that it reached; null until `triptych limits` measured them.
    """

    @classmethod
    def of(cls, record: RequestRecord, limits: MachineLimits | None = None) -> "ReportedRecord":
        """Derive the metrics of a record, and its shares of the machine's *limits*."""
        return cls(
            **structs.asdict(record),
            metrics=derive(record),
            limits=limit_shares(record, limits),
        )
