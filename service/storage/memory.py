"""In-memory record store, for tests and for services that must leave nothing on disk."""

import threading
from collections.abc import Callable, Iterator, Sequence

from msgspec import structs

from service.core.errors import QueryCancelled
from service.core.ports import RecordFilter, RecordPage
from service.core.record import RequestRecord
from service.core.summary import RecordSummary, summarize
from service.storage import cursor as cursors
from service.storage.cursor import Position


class MemoryRecordStore:
    """Records in a dict; gone with the process. Safe to use from several threads."""

    def __init__(self) -> None:
        self._records: dict[str, RequestRecord] = {}
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<MemoryRecordStore [{len(self._records)} records]>"

    def write(self, records: Sequence[RequestRecord]) -> None:
        """Insert or replace by `request_id`; a `final` record stays."""
        with self._lock:
            for record in records:
                older = self._records.get(record.request_id)
                if older is None or older.phase == "accepted" or record.phase == "final":
                    self._records[record.request_id] = record

    def get(self, request_id: str) -> RequestRecord | None:
        """Read a record; None if there is none with this id."""
        return self._records.get(request_id)

    def page(self, where: RecordFilter, *, limit: int, cursor: str | None) -> RecordPage:
        """Read a page, newest first. Raises InvalidRequest for a cursor that no page returned."""
        found = self._matching(where)[::-1]
        if cursor is not None:
            end = cursors.decode(cursor)
            found = [record for record in found if Position.of(record) < end]
        return cursors.page(found, limit)

    def iterate(self, where: RecordFilter) -> Iterator[RequestRecord]:
        """Read the records that match now, oldest first."""
        yield from self._matching(where)

    def summary(
        self, where: RecordFilter, *, window_ns: int | None, cancelled: Callable[[], bool]
    ) -> RecordSummary:
        """Summarize matching records."""

        def until_cancelled() -> Iterator[RequestRecord]:
            for record in self.iterate(where):
                if cancelled():
                    raise QueryCancelled("the summary was cancelled")
                yield record

        return summarize(until_cancelled(), window_ns=window_ns)

    def compact(self) -> bool:
        """Nothing to prepare."""
        return False

    def interrupt_orphans(self) -> int:
        """Turn records that never became final into `interrupted`; return how many there were."""
        with self._lock:
            orphans = [one for one in self._records.values() if one.phase == "accepted"]
            for orphan in orphans:
                self._records[orphan.request_id] = structs.replace(
                    orphan, phase="final", status="interrupted"
                )
            return len(orphans)

    def close(self) -> None:
        """Nothing to release."""

    def _matching(self, where: RecordFilter) -> list[RequestRecord]:
        with self._lock:
            found = [record for record in self._records.values() if _matches(record, where)]
        return sorted(found, key=Position.of)


def _matches(record: RequestRecord, where: RecordFilter) -> bool:
    equal = ("model", "family", "status", "endpoint", "requested_model", "comparison_id")
    return (
        all(getattr(where, name) in (None, getattr(record, name)) for name in equal)
        and (not where.with_error or record.error_code is not None)
        and (
            where.route is None
            or (record.requested_model == where.route and record.route not in (None, "direct"))
        )
        and (where.since_ns is None or record.accepted_at_ns >= where.since_ns)
        and (where.until_ns is None or record.accepted_at_ns < where.until_ns)
    )
