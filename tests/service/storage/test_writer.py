"""The writer loses nothing, blocks nobody, and says when it cannot keep up."""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from sqlalchemy import create_engine, func, select

from service.core.errors import StoreUnavailable
from service.core.ports import RecordFilter
from service.core.record import RequestRecord
from service.storage import sqlite
from service.storage.columns import blocks
from service.storage.memory import MemoryRecordStore
from service.storage.store import SqlRecordStore
from service.storage.tables import record_block
from service.storage.write_queue import held_bytes
from service.storage.writer import RecordWriter
from support.waiting import until, wait_until

MakeRecord = Callable[..., RequestRecord]


class GatedStore(MemoryRecordStore):
    """Holds every write until the gate opens, and notes how many records came at once."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.entered = threading.Event()
        self.batches: list[int] = []

    def write(self, records: Sequence[RequestRecord]) -> None:
        """Wait, then write."""
        self.entered.set()
        assert self.gate.wait(10)
        self.batches.append(len(records))
        super().write(records)


@pytest.fixture
def start() -> Iterator[Callable[..., RecordWriter]]:
    writers: list[RecordWriter] = []

    def start_writer(store: object, **limits: object) -> RecordWriter:
        writer = RecordWriter(store, **limits)  # type: ignore[arg-type]
        writer.start()
        writers.append(writer)
        return writer

    yield start_writer
    for writer in writers:
        writer.close(timeout_s=0.5)


@pytest.fixture
def gated(start: object) -> Iterator[GatedStore]:
    # Depends on `start` so that the gate opens before the writers close.
    store = GatedStore()
    yield store
    store.gate.set()


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SqlRecordStore]:
    monkeypatch.setattr(sqlite, "_BUSY_TIMEOUT_MS", 20)
    opened = SqlRecordStore(f"sqlite:///{tmp_path}/records.db")
    yield opened
    opened.close()


async def test_flushed_means_on_disk(store, start, make_record: MakeRecord) -> None:
    """After `flushed` another connection sees the record."""
    writer = start(store)

    writer.submit(make_record("r"))
    await writer.flushed()

    assert store.get("r") == make_record("r")


def test_what_waits_is_one_transaction(gated, start, make_record: MakeRecord) -> None:
    """Everything submitted during a write goes into the next one together."""
    writer = start(gated)
    writer.submit(make_record("first"))
    assert gated.entered.wait(10)
    for n in range(50):
        writer.submit(make_record(f"r{n}"))

    gated.gate.set()
    wait_until(lambda: writer.stats().queued_rows == 0)

    assert gated.batches == [1, 50]


def test_a_batch_is_bounded(gated, start, make_record: MakeRecord) -> None:
    """A long queue is written in transactions of at most 200 rows."""
    writer = start(gated)
    writer.submit(make_record("first"))
    assert gated.entered.wait(10)
    for n in range(450):
        writer.submit(make_record(f"r{n}"))

    gated.gate.set()
    wait_until(lambda: writer.stats().queued_rows == 0)

    assert gated.batches == [1, 200, 200, 50]


def test_submit_never_waits(gated, start, make_record: MakeRecord) -> None:
    """Submitting returns at once while the disk hangs."""
    writer = start(gated)
    begun = time.monotonic()

    for n in range(1000):
        writer.submit(make_record(f"r{n}"))

    assert time.monotonic() - begun < 1
    assert writer.stats().queued_rows == 1000


def test_starting_interrupts_orphans(store, start, make_record: MakeRecord) -> None:
    """What a dead service left open is interrupted before the first new record."""
    store.write([make_record("r", phase="accepted", status="running")])
    writer = RecordWriter(store)

    assert writer.start() == 1
    assert [r.status for r in store.iterate(RecordFilter())] == ["interrupted"]
    writer.close()


async def test_a_locked_store_is_retried(tmp_path: Path, store, start, make_record) -> None:
    """While the database is locked the rows are kept and waiters fail; then all are written."""
    writer = start(store)
    with create_engine(f"sqlite:///{tmp_path}/records.db").connect() as blocker:
        blocker.exec_driver_sql("BEGIN IMMEDIATE")
        writer.submit(make_record("r"))
        with pytest.raises(StoreUnavailable):
            await writer.flushed()
        await until(lambda: writer.stats().failed_writes > 1)
        assert not writer.healthy

    await until(lambda: writer.healthy)

    assert store.get("r") == make_record("r")


def test_a_full_disk_loses_nothing(store, start, make_record: MakeRecord) -> None:
    """With no room left rows are kept; with room again every one of them is written."""
    with store._engine.connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages + 4}")
    writer = start(store)
    for n in range(500):
        writer.submit(make_record(f"r{n:03}"))
    wait_until(lambda: writer.stats().failed_writes > 1)
    assert not writer.healthy

    store._engine.dispose()  # the quota belongs to the connection
    wait_until(lambda: writer.stats().queued_rows == 0)

    assert writer.healthy
    assert sum(1 for _ in store.iterate(RecordFilter())) == 500


def test_beyond_the_bound_new_requests_are_refused(gated, start, make_record) -> None:
    """A full writer refuses what can be refused, and still takes the end of what it accepted."""
    writer = start(gated, max_rows=2)
    for n in range(2):
        writer.submit(make_record(f"r{n}", phase="accepted", status="running"))

    with pytest.raises(StoreUnavailable):
        writer.submit(make_record("new", phase="accepted", status="running"))
    writer.submit(make_record("r0"))

    assert not writer.healthy
    assert (writer.stats().queued_rows, writer.stats().refused_rows) == (3, 1)


def test_contents_count_towards_the_bound(gated, start, make_record: MakeRecord) -> None:
    """Long prompts fill the writer by their bytes, however few they are."""
    writer = start(gated, max_bytes=100_000)
    writer.submit(make_record("r", prompt_content="x" * 100_000))

    assert not writer.healthy


async def test_a_hanging_disk_is_not_healthy(gated, start, make_record: MakeRecord) -> None:
    """A write that neither ends nor fails shows as lag."""
    writer = start(gated, max_lag_s=0.05)
    writer.submit(make_record("r"))

    await until(lambda: not writer.healthy)

    assert writer.stats().lag_s > 0.05
    with pytest.raises(StoreUnavailable):
        await writer.flushed()


def test_one_bad_record_does_not_hold_up_others(store, start, make_record, caplog) -> None:
    """A record that no attempt can store is logged by its id; its neighbours are written."""
    writer = RecordWriter(store)
    for n in range(3):
        writer.submit(make_record(f"a{n}"))
    writer.submit(make_record("bad", accepted_ns=2**70, error_code="secret"))
    writer.submit(make_record("z"))
    with caplog.at_level(logging.ERROR):
        writer.start()
        assert writer.close() == 0

    assert [r.request_id for r in store.iterate(RecordFilter())] == ["a0", "a1", "a2", "z"]
    assert writer.stats().unwritable_rows == 1
    assert "record bad cannot be stored: OverflowError" in caplog.text
    assert "secret" not in caplog.text


def test_closing_drains(store, make_record: MakeRecord) -> None:
    """Closing writes what waits before it returns, and takes nothing afterwards."""
    writer = RecordWriter(store)
    writer.start()
    for n in range(300):
        writer.submit(make_record(f"r{n}"))

    assert writer.close() == 0
    assert sum(1 for _ in store.iterate(RecordFilter())) == 300
    with pytest.raises(StoreUnavailable):
        writer.submit(make_record("late"))


def test_closing_gives_up_in_time(tmp_path: Path, store, make_record: MakeRecord) -> None:
    """A store that stays locked ends the drain at the time limit; the rest is counted."""
    writer = RecordWriter(store)
    writer.start()
    with create_engine(f"sqlite:///{tmp_path}/records.db").connect() as blocker:
        blocker.exec_driver_sql("BEGIN IMMEDIATE")
        writer.submit(make_record("r"))

        assert writer.close(timeout_s=0.2) == 1


def test_a_waiter_that_left_is_no_trouble(gated, start, make_record: MakeRecord) -> None:
    """A cancelled `flushed`, and a loop that ended, leave the writer working."""
    writer = start(gated)
    writer.submit(make_record("r"))

    async def give_up() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(writer.flushed(), 0.02)

    asyncio.run(give_up())
    gated.gate.set()
    wait_until(lambda: writer.stats().queued_rows == 0)

    assert writer.healthy


async def test_nothing_waiting_is_flushed_at_once(gated, start) -> None:
    """With nothing submitted `flushed` does not go through the thread."""
    await start(gated).flushed()

    assert gated.batches == []


@pytest.mark.parametrize("field", ["requested_model", "prompt_content", "route_reason"])
def test_the_bound_counts_true_bytes(make_record: MakeRecord, field: str) -> None:
    """Every text of a record counts, by what it takes in memory: a snake is four bytes."""
    plain = held_bytes(make_record("r", **{field: ""}))

    assert held_bytes(make_record("r", **{field: "🐍" * 1000})) >= plain + 4000


def test_full_blocks_are_packed_while_nothing_waits(
    tmp_path: Path, start: Callable[..., RecordWriter], make_record: MakeRecord, monkeypatch
) -> None:
    """Summaries find columns: the writer packs a block as soon as it is full and final."""
    monkeypatch.setattr(blocks, "BLOCK_ROWS", 5)
    store = SqlRecordStore(f"sqlite:///{tmp_path}/records.db")
    writer = start(store)
    for n in range(12):
        writer.submit(make_record(f"r{n}"))
        wait_until(lambda: writer.stats().queued_rows == 0)

    def packed() -> int | None:
        with store._engine.connect() as connection:
            return connection.scalar(select(func.count()).where(record_block.c.packed))

    wait_until(lambda: packed() == 2)
    writer.close()
    store.close()
