"""What is read of the records: pages, one record, summaries, exports.

Each waits until everything submitted before is stored, so that a client reads its own requests.
"""

import asyncio
from collections.abc import Iterator

from msgspec import Struct

from service.core.errors import NotFound
from service.core.ports import RecordFilter, RecordSink, RecordStore
from service.core.summary import RecordSummary, summarize
from service.serving.records.export import ExportFormat, export
from service.serving.records.reported_record import ReportedRecord


class ReportedPage(Struct, frozen=True, kw_only=True):
    """A page of records, newest first."""

    data: tuple[ReportedRecord, ...]
    next_cursor: str | None
    """Continues after this page; null on the last one."""


class Reports:
    """Reads records of one store. Every method raises StoreUnavailable where that fails."""

    def __init__(self, store: RecordStore, sink: RecordSink) -> None:
        self._store = store
        self._sink = sink

    async def page(self, where: RecordFilter, *, limit: int, cursor: str | None) -> ReportedPage:
        """A page. Raises InvalidRequest for a cursor that is not one of ours."""
        await self._sink.flushed()
        page = await asyncio.to_thread(self._store.page, where, limit=limit, cursor=cursor)
        return ReportedPage(
            data=tuple(map(ReportedRecord.of, page.records)), next_cursor=page.next_cursor
        )

    async def record(self, request_id: str) -> ReportedRecord:
        """One record. Raises NotFound."""
        await self._sink.flushed()
        record = await asyncio.to_thread(self._store.get, request_id)
        if record is None:
            raise NotFound("There is no record of this request.", param="request_id")
        return ReportedRecord.of(record)

    async def summary(self, where: RecordFilter, *, window_ns: int | None) -> RecordSummary:
        """Counts, sums and percentiles, in total and by model and window."""
        await self._sink.flushed()
        return await asyncio.to_thread(
            lambda: summarize(self._store.iterate(where), window_ns=window_ns)
        )

    async def export(self, where: RecordFilter, form: ExportFormat) -> Iterator[bytes]:
        """Pieces of a file; reading each one blocks."""
        await self._sink.flushed()
        return export(self._store.iterate(where), form)
