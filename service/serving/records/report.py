"""Reports: pages, single records, summaries and exports of what was recorded.

Each waits until everything submitted before is stored, so that a client reads its own requests.
"""

from collections.abc import AsyncGenerator
from typing import Final

from msgspec import Struct

from service.core.errors import NotFound, Overloaded
from service.core.limits import MachineLimits
from service.core.ports import RecordFilter, RecordSink, RecordStore
from service.core.summary import RecordSummary
from service.serving.records.export import ExportFormat, export
from service.serving.records.query_pool import QueryPool
from service.serving.records.reported_record import ReportedRecord


class ReportedPage(Struct, frozen=True, kw_only=True):
    """A page of records, newest first."""

    data: tuple[ReportedRecord, ...]
    next_cursor: str | None
    """Continues after this page; null on the last one."""


MOST_EXPORTS: Final = 4
"""Exports at once, each of which holds some 20 MB."""
EXPORT_RETRY_S: Final = 10.0


class Reports:
    """Reads records of one store. Every method raises StoreUnavailable where that fails.

    Summaries have one thread, since a large one takes a core and some 90 MB for a moment.
    """

    def __init__(
        self, store: RecordStore, sink: RecordSink, limits: MachineLimits | None = None
    ) -> None:
        self._store = store
        self._sink = sink
        self._limits = limits
        self._pages = QueryPool("pages", threads=2, max_waiting=64)
        self._summaries = QueryPool("summaries", threads=1, max_waiting=8)
        # One read an export, and those of abandoned exports, which end soon.
        self._exports = QueryPool("exports", threads=2, max_waiting=4 * MOST_EXPORTS)
        self._exporting = 0

    @property
    def summaries(self) -> int:
        """Summaries that run or wait."""
        return self._summaries.admitted

    async def page(self, where: RecordFilter, *, limit: int, cursor: str | None) -> ReportedPage:
        """A page. Raises InvalidRequest for a cursor that no page returned, or Overloaded."""
        await self._sink.flushed()

        def read(_: object) -> ReportedPage:
            page = self._store.page(where, limit=limit, cursor=cursor)
            return ReportedPage(
                data=tuple(ReportedRecord.of(record, self._limits) for record in page.records),
                next_cursor=page.next_cursor,
            )

        return await self._pages.run(read)

    async def record(self, request_id: str) -> ReportedRecord:
        """A record by its id. Raises NotFound or Overloaded."""
        await self._sink.flushed()
        record = await self._pages.run(lambda _: self._store.get(request_id))
        if record is None:
            raise NotFound("There is no record of this request.", param="request_id")
        return ReportedRecord.of(record, self._limits)

    async def summary(self, where: RecordFilter, *, window_ns: int | None) -> RecordSummary:
        """Counts, sums and percentiles, in total and by model and window.

        Raises InvalidRequest for too many groups, or Overloaded.
        """
        await self._sink.flushed()
        return await self._summaries.run(
            lambda cancelled: self._store.summary(where, window_ns=window_ns, cancelled=cancelled)
        )

    async def export(self, where: RecordFilter, form: ExportFormat) -> AsyncGenerator[bytes]:
        """Yield a file in pieces. Raises Overloaded while as many exports run as may."""
        if self._exporting >= MOST_EXPORTS:
            raise Overloaded(
                f"{MOST_EXPORTS} exports run already; try again later.",
                retry_after_s=EXPORT_RETRY_S,
            )
        self._exporting += 1
        try:
            await self._sink.flushed()
            pieces = export(self._store.iterate(where), form, self._limits)
            while (piece := await self._exports.run(lambda _: next(pieces, None))) is not None:
                yield piece
        finally:
            self._exporting -= 1

    def close(self) -> None:
        """Cancel what runs."""
        self._pages.close()
        self._summaries.close()
        self._exports.close()
