"""Record writer: one thread that writes all queued records in one transaction and drops none."""

import asyncio
import contextlib
import logging
import queue
import threading
import time
from collections import deque

from service.core.errors import StoreUnavailable
from service.core.ports import RecordStore, WriterStats
from service.core.record import RequestRecord
from service.storage.write_queue import Flush, Row, Stop, held_bytes, refusable

_log = logging.getLogger(__name__)

_BATCH_ROWS = 200
_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 5.0


class RecordWriter:
    """A RecordSink that groups commits: while one batch is written, the next one gathers.

    A write that fails is repeated, with growing pauses, until it succeeds. Until then the writer is
    not healthy and `flushed` raises StoreUnavailable, so that no request is answered unrecorded.
    """

    def __init__(
        self,
        store: RecordStore,
        *,
        max_rows: int = 20_000,
        max_bytes: int = 64 * 1024 * 1024,
        max_lag_s: float = 10.0,
    ) -> None:
        """Write to *store*; beyond a limit the writer is not healthy."""
        self._store = store
        self._max_rows = max_rows
        self._max_bytes = max_bytes
        self._max_lag_s = max_lag_s
        self._queue: queue.SimpleQueue[Row | Flush | Stop] = queue.SimpleQueue()
        # Taken off the queue and not yet done; touched by the thread alone.
        self._backlog: deque[Row | Flush | Stop] = deque()
        self._lock = threading.Lock()
        # Submission times of the rows in queue and backlog, in order.
        self._submitted_ns: deque[int] = deque()
        self._queued_bytes = 0
        self._refused_rows = 0
        self._failing = False
        self._compacting = True
        # Rows still to be written one at a time, after a batch with a bad one.
        self._singly = 0
        self._written_rows = self._failed_writes = self._unwritable_rows = 0
        self._write_ns = 0
        self._closing = threading.Event()
        self._deadline_ns = 0
        self._thread = threading.Thread(target=self._run, name="record-writer", daemon=True)

    def __repr__(self) -> str:
        state = "healthy" if self.healthy else "not healthy"
        rows = f"{len(self._submitted_ns)} rows queued, {self._written_rows} written"
        return f"<RecordWriter [{state}, {rows}]>"

    def start(self) -> int:
        """Interrupt the records that a dead service left open and start; return how many."""
        orphans = self._store.interrupt_orphans()
        self._thread.start()
        return orphans

    def submit(self, record: RequestRecord) -> None:
        """Queue a record without blocking.

        Raises:
            StoreUnavailable: Too many records wait and this one begins a request, so that the
                request can still be refused. The end of an accepted request is always taken.
        """
        row = Row(record, held_bytes(record))
        with self._lock:
            if self._closing.is_set() or (self._full and refusable(record)):
                self._refused_rows += 1
                raise self._unavailable()
            self._submitted_ns.append(time.monotonic_ns())
            self._queued_bytes += row.bytes
            self._queue.put(row)

    async def flushed(self) -> None:
        """Wait until everything submitted before this call is on disk.

        Raises:
            StoreUnavailable: Records cannot be written now. They are kept and tried again.
        """
        if not self._submitted_ns:
            return
        if not self.healthy:
            raise self._unavailable()
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        self._queue.put(Flush(loop, done))
        await done

    @property
    def healthy(self) -> bool:
        """True while records reach the disk; admit no request otherwise."""
        return (
            self._thread.is_alive()
            and not self._failing
            and not self._full
            and self._lag_s() <= self._max_lag_s
        )

    def stats(self) -> WriterStats:
        """Current state and lifetime counts."""
        return WriterStats(
            healthy=self.healthy,
            queued_rows=len(self._submitted_ns),
            queued_bytes=self._queued_bytes,
            lag_s=self._lag_s(),
            written_rows=self._written_rows,
            write_s=self._write_ns / 1e9,
            failed_writes=self._failed_writes,
            refused_rows=self._refused_rows,
            unwritable_rows=self._unwritable_rows,
        )

    def close(self, timeout_s: float = 10.0) -> int:
        """Write what waits and end the thread; return how many records are not on disk."""
        with self._lock:
            self._deadline_ns = time.monotonic_ns() + int(timeout_s * 1e9)
            self._closing.set()
        self._queue.put(Stop())
        if self._thread.ident is not None:
            self._thread.join(timeout_s + 1)
        left = len(self._submitted_ns)
        if left:
            _log.error("closed with %d records that could not be written", left)
        return left

    @property
    def _full(self) -> bool:
        rows = len(self._submitted_ns)
        return rows >= self._max_rows or self._queued_bytes >= self._max_bytes

    def _lag_s(self) -> float:
        try:
            return (time.monotonic_ns() - self._submitted_ns[0]) / 1e9
        except IndexError:
            return 0.0

    def _unavailable(self) -> StoreUnavailable:
        return StoreUnavailable(
            "Requests cannot be recorded at the moment; none is accepted.",
            retry_after_s=_LONGEST_PAUSE_S,
        )

    def _run(self) -> None:
        pause_s = _FIRST_PAUSE_S
        while True:
            if not self._backlog:
                self._compact()
                self._backlog.append(self._queue.get())
            self._gather()
            if isinstance(self._backlog[0], Stop):
                return
            if self._write_head():
                pause_s = _FIRST_PAUSE_S
                continue
            if self._closing.wait(pause_s):
                if time.monotonic_ns() > self._deadline_ns:
                    return
                time.sleep(_FIRST_PAUSE_S)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _compact(self) -> None:
        """Let the store prepare records for summaries while nothing waits to be written."""
        try:
            while self._compacting and self._queue.empty() and self._store.compact():
                pass
        except StoreUnavailable as error:
            _log.warning("packing records for summaries failed: %s", error)
        except Exception as error:  # noqa: BLE001 - records must still be written
            # Summaries read the rows instead.
            self._compacting = False
            _log.error("packing records for summaries failed", exc_info=error)

    def _gather(self) -> None:
        """Take everything that waits."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._backlog.append(self._queue.get_nowait())

    def _head(self, max_rows: int) -> list[Row | Flush]:
        """The next rows, with every flush before the row after them."""
        head: list[Row | Flush] = []
        rows = 0
        for item in self._backlog:
            rows += isinstance(item, Row)
            if rows > max_rows or isinstance(item, Stop):
                break
            head.append(item)
        return head

    def _write_head(self) -> bool:
        """Write the head of the backlog; False if the store cannot be used now."""
        head = self._head(1 if self._singly else _BATCH_ROWS)
        rows = [item for item in head if isinstance(item, Row)]
        begun_ns = time.monotonic_ns()
        try:
            self._store.write([row.record for row in rows])
        except StoreUnavailable as error:
            self._keep(error)
            return False
        except Exception as error:  # noqa: BLE001 - one bad record must not hold up all others
            if len(rows) > 1:
                self._singly = len(rows)
                return True
            self._reject(rows[0], error)
        else:
            self._written_rows += len(rows)
            self._write_ns += time.monotonic_ns() - begun_ns
        self._recovered()
        self._release(head, rows)
        return True

    def _release(self, head: list[Row | Flush], rows: list[Row]) -> None:
        """Remove written items from the backlog and wake their waiters."""
        with self._lock:
            for row in rows:
                self._submitted_ns.popleft()
                self._queued_bytes -= row.bytes
        self._singly = max(0, self._singly - len(rows))
        for _ in head:
            item = self._backlog.popleft()
            if isinstance(item, Flush):
                item.settle()

    def _keep(self, error: StoreUnavailable) -> None:
        """Keep the rows for the next attempt and fail the flushes that wait for them."""
        self._failed_writes += 1
        if not self._failing:
            self._failing = True
            _log.error("records cannot be written and are kept in memory: %s", error)
        self._gather()
        for item in self._backlog:
            if isinstance(item, Flush):
                item.settle(self._unavailable())
        self._backlog = deque(item for item in self._backlog if not isinstance(item, Flush))

    def _recovered(self) -> None:
        if self._failing:
            self._failing = False
            _log.warning("records can be written again")

    def _reject(self, row: Row, error: Exception) -> None:
        self._unwritable_rows += 1
        # The error's text may hold what the record holds.
        _log.error("record %s cannot be stored: %s", row.record.request_id, type(error).__name__)
