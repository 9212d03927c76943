"""Reported record: the recorded facts with the metrics derived from them."""

from msgspec import structs

from service.core.metrics import RequestMetrics, derive
from service.core.record import RequestRecord


class ReportedRecord(RequestRecord, frozen=True, kw_only=True):
    """A record and its derived metrics."""

    metrics: RequestMetrics

    @classmethod
    def of(cls, record: RequestRecord) -> "ReportedRecord":
        """Derive the metrics of a record."""
        return cls(**structs.asdict(record), metrics=derive(record))
