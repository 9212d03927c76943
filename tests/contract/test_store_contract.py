"""Every record store is asked the same questions."""

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import structs

from service.core.errors import InvalidRequest, QueryCancelled
from service.core.events import StateBytes
from service.core.ports import RecordFilter, RecordStore
from service.core.record import RequestRecord
from service.core.summary import summarize
from service.core.work import Energy
from service.storage import open_store
from service.storage.columns import blocks

MakeRecord = Callable[..., RequestRecord]
EVERYTHING = RecordFilter()


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RecordStore]:
    urls = {"memory": "memory://", "sqlite": f"sqlite:///{tmp_path}/records.db"}
    opened = open_store(urls[request.param])
    yield opened
    opened.close()


def ids(records) -> list[str]:
    return [record.request_id for record in records]


def test_a_full_record_comes_back_equal(store: RecordStore, make_record: MakeRecord) -> None:
    """Every field of a record survives writing and reading."""
    record = make_record(
        "full",
        variant="int8",
        sampling={"temperature": 0.0, "stop": ["\n"]},
        prompt_content="Wie heißt du?",
        completion_content="Ich heiße 🐍.",
        cold=True,
        verified=False,
        comparison_id="c1",
        arm=2,
        client_request_id="mine",
        load_ns=5,
    )

    store.write([record])

    assert record == store.get("full")


def test_unknown_stays_none(store: RecordStore) -> None:
    """What a record does not know is None again when it is read, never 0 or an empty text."""
    record = RequestRecord(
        request_id="bare",
        phase="final",
        status="refused",
        endpoint="chat",
        stream=False,
        requested_model="no-such",
        accepted_at_ns=1,
        accepted_ns=2,
    )

    store.write([record])

    assert record == store.get("bare")


def test_a_model_without_build_comes_back(store: RecordStore, make_record: MakeRecord) -> None:
    """A request whose model failed to load keeps the model's name, with no build."""
    record = make_record("r", build=None, status="failed")

    store.write([record])

    assert record == store.get("r")


def test_get_of_an_unknown_id_is_none(store: RecordStore) -> None:
    """An id that was never written gives None."""
    assert store.get("nothing") is None


def test_final_replaces_accepted(store: RecordStore, make_record: MakeRecord) -> None:
    """The final record takes the place of the accepted one: one row a request."""
    store.write([make_record("r", phase="accepted", status="running")])
    final = make_record("r")

    store.write([final])

    assert [final] == list(store.iterate(EVERYTHING))


def test_accepted_never_replaces_final(store: RecordStore, make_record: MakeRecord) -> None:
    """An accepted record that arrives late changes nothing, its contents included."""
    final = make_record("r", completion_content="done")
    store.write([final])

    store.write([make_record("r", phase="accepted", status="running", prompt_content="late")])

    assert [final] == list(store.iterate(EVERYTHING))


def test_order_inside_a_batch_does_not_matter(store: RecordStore, make_record: MakeRecord) -> None:
    """Final before accepted in one batch leaves the final record with its contents."""
    final = make_record("r", completion_content="done")

    store.write([final, make_record("r", phase="accepted", status="running")])

    assert final == store.get("r")


def test_a_newer_final_replaces_an_older_one(store: RecordStore, make_record: MakeRecord) -> None:
    """The last final record stands whole: contents of the older one are gone."""
    store.write([make_record("r", prompt_content="old", completion_content="old")])
    newer = make_record("r", status="cancelled")

    store.write([newer])

    assert newer == store.get("r")


def test_orphans_become_interrupted(store: RecordStore, make_record: MakeRecord) -> None:
    """Only rows without an end are interrupted, and they keep what they knew."""
    orphan = make_record("orphan", phase="accepted", status="running", prompt_content="p")
    ended = make_record("ended")
    store.write([orphan, ended])

    assert store.interrupt_orphans() == 1
    assert store.get("orphan") == structs.replace(orphan, phase="final", status="interrupted")
    assert store.get("ended") == ended
    assert store.interrupt_orphans() == 0


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (RecordFilter(model="m-ssm"), ["b"]),
        (RecordFilter(family="transformer"), ["a", "d"]),
        (RecordFilter(model="m-ssm", family="transformer"), []),
        (RecordFilter(status="failed"), ["c"]),
        (RecordFilter(endpoint="compare"), ["d"]),
        (RecordFilter(requested_model="route"), ["c"]),
        (RecordFilter(comparison_id="cmp"), ["d"]),
        (RecordFilter(since_ns=20), ["b", "c", "d"]),
        (RecordFilter(until_ns=30), ["a", "b"]),
        (RecordFilter(since_ns=20, until_ns=40, status="ok"), ["b"]),
    ],
)
def test_filters_restrict(
    store: RecordStore, make_record: MakeRecord, where: RecordFilter, expected: list[str]
) -> None:
    """Each filter keeps exactly its records, since is inclusive and until exclusive."""
    store.write(
        [
            make_record("a", accepted_at_ns=10),
            make_record("b", accepted_at_ns=20, model="m-ssm", family="ssm"),
            make_record(
                "c",
                accepted_at_ns=30,
                model=None,
                family=None,
                build=None,
                status="failed",
                requested_model="route",
            ),
            make_record("d", accepted_at_ns=40, endpoint="compare", comparison_id="cmp"),
        ]
    )

    assert expected == ids(store.iterate(where))
    assert expected[::-1] == ids(store.page(where, limit=10, cursor=None).records)


def test_pages_are_newest_first_and_complete(store: RecordStore, make_record: MakeRecord) -> None:
    """Following the cursors visits every record once, newest first, ties by id."""
    records = [make_record(f"r{n}", accepted_at_ns=n // 2) for n in range(7)]
    store.write(records)

    seen: list[str] = []
    cursor = None
    while True:
        page = store.page(EVERYTHING, limit=3, cursor=cursor)
        seen += ids(page.records)
        cursor = page.next_cursor
        if cursor is None:
            break

    assert ids(records)[::-1] == seen


def test_pages_are_stable_under_inserts(store: RecordStore, make_record: MakeRecord) -> None:
    """Records that arrive between two pages neither repeat nor hide older ones."""
    store.write([make_record(f"r{n}", accepted_at_ns=n) for n in range(4)])
    first = store.page(EVERYTHING, limit=2, cursor=None)
    store.write([make_record("new", accepted_at_ns=9)])

    second = store.page(EVERYTHING, limit=2, cursor=first.next_cursor)

    assert ids(second.records) == ["r1", "r0"]
    assert second.next_cursor is None


@pytest.mark.parametrize("cursor", ["", "x", "é", "bm9wZQ", "W10", "WyJhIiwxXQ", "A" * 500])
def test_a_foreign_cursor_is_refused(store: RecordStore, cursor: str) -> None:
    """A cursor that no page returned is the client's mistake."""
    with pytest.raises(InvalidRequest) as caught:
        store.page(EVERYTHING, limit=1, cursor=cursor)

    assert caught.value.param == "cursor"


def test_iterating_is_oldest_first_beyond_one_batch(
    store: RecordStore, make_record: MakeRecord
) -> None:
    """An iteration crosses batches without losing or repeating a record."""
    records = [make_record(f"r{n:05}", accepted_at_ns=n // 7) for n in range(2500)]
    store.write(records[::-1])

    assert records == list(store.iterate(EVERYTHING))


def test_writing_while_iterating_is_possible(store: RecordStore, make_record: MakeRecord) -> None:
    """An open iteration holds no lock that a writer would wait for."""
    store.write([make_record(f"r{n:05}", accepted_at_ns=n) for n in range(1500)])
    iteration = store.iterate(EVERYTHING)
    next(iteration)

    store.write([make_record("r", accepted_at_ns=0)])

    assert sum(1 for _ in iteration) == 1499


def test_records_of_the_same_build_stay_apart_from_others(
    store: RecordStore, make_record: MakeRecord
) -> None:
    """Each record has its own build back, whatever builds were written beside it."""
    base = make_record("r").build
    assert base is not None
    builds = [structs.replace(base, dtype=dtype) for dtype in ("bfloat16", "float32")]
    records = [make_record(f"r{n}", build=builds[n % 2], accepted_at_ns=n) for n in range(6)]

    store.write(records)

    assert records == list(store.iterate(EVERYTHING))


def test_big_counts_fit(store: RecordStore, make_record: MakeRecord) -> None:
    """Bytes and nanoseconds beyond 32 bits come back exactly."""
    record = make_record("r", accepted_ns=2**62, state=StateBytes(reserved_bytes=2**50))

    store.write([record])

    assert record == store.get("r")


def test_no_records_are_written_for_none(store: RecordStore) -> None:
    """Writing an empty batch is no error and leaves nothing."""
    store.write([])

    assert list(store.iterate(EVERYTHING)) == []


def never() -> bool:
    return False


RECORDS = st.builds(
    dict,
    status=st.sampled_from(["ok", "ok", "ok", "cancelled", "failed", "refused"]),
    endpoint=st.sampled_from(["chat", "completion"]),
    requested_model=st.sampled_from(["m", "route", "x" * 200]),
    model=st.sampled_from(["m", "n", None]),
    variant=st.sampled_from([None, "int8"]),
    cold=st.booleans(),
    verified=st.sampled_from([True, False, None]),
    accepted_at_ns=st.integers(0, 400),
    queued_ns=st.none() | st.integers(5 * 10**9, 6 * 10**9),
    first_ns=st.none() | st.integers(6 * 10**9, 7 * 10**9),
    last_ns=st.none() | st.integers(7 * 10**9, 2**44),
    load_ns=st.none() | st.integers(0, 10**12),
    completion_tokens=st.none() | st.integers(0, 500),
    completion_bytes=st.none() | st.integers(0, 5000),
    state=st.builds(
        StateBytes,
        attention_kv_bytes=st.none() | st.integers(0, 2**40),
        ssm_state_bytes=st.just(77),
    ),
    energy=st.just(Energy())
    | st.builds(
        Energy,
        energy_uj=st.integers(0, 2**40),
        energy_source=st.sampled_from(["rapl", "estimate"]),
        energy_shared=st.booleans(),
    ),
)
FILTERS = st.builds(
    RecordFilter,
    model=st.sampled_from([None, None, "m", "absent"]),
    family=st.sampled_from([None, None, "transformer", "ssm"]),
    status=st.sampled_from([None, None, "ok", "interrupted"]),
    endpoint=st.sampled_from([None, None, "completion"]),
    requested_model=st.sampled_from([None, None, "route"]),
    since_ns=st.none() | st.integers(0, 400),
    until_ns=st.none() | st.integers(0, 400),
)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    changes=st.lists(RECORDS, max_size=60),
    where=FILTERS,
    window_ns=st.sampled_from([None, 1, 7, 100]),
    again=st.lists(st.integers(0, 59), max_size=4),
)
def test_a_summary_is_that_of_the_records(
    tmp_path_factory, make_record: MakeRecord, monkeypatch, changes, where, window_ns, again
) -> None:
    """A store sums up in its own way and says exactly what the formulas say of its records.

    Also of records that were replaced after their columns were packed.
    """
    monkeypatch.setattr(blocks, "BLOCK_ROWS", 7)
    records = [make_record(f"r{n}", **each) for n, each in enumerate(changes)]
    urls = ("memory://", f"sqlite:///{tmp_path_factory.mktemp('store')}/records.db")
    for url in urls:
        with closing(open_store(url)) as store:
            for begin in range(0, len(records), 3):
                store.write(records[begin : begin + 3])
                store.compact()
            for n in again:
                if n < len(records):
                    store.write([structs.replace(records[n], status="cancelled", last_ns=None)])
            expected = summarize(store.iterate(where), window_ns=window_ns)
            assert store.summary(where, window_ns=window_ns, cancelled=never) == expected


def test_percentiles_of_a_summary_are_exact(store: RecordStore, make_record: MakeRecord) -> None:
    """p95 and p99 are values of the records by nearest rank, with as many as they need."""
    store.write([make_record(f"r{n}", last_ns=8 * 10**9 + n * n * 7919) for n in range(400)])
    found = store.summary(EVERYTHING, window_ns=None, cancelled=never)
    assert found == summarize(store.iterate(EVERYTHING))
    assert found.total.metrics["e2e_ms"].p99 == (3 * 10**9 + 395**2 * 7919) / 1e6


def test_a_cancelled_summary_ends(store: RecordStore, make_record: MakeRecord) -> None:
    """A summary that nobody waits for does no more work."""
    store.write([make_record("r")])
    with pytest.raises(QueryCancelled):
        store.summary(EVERYTHING, window_ns=None, cancelled=lambda: True)


def test_a_summary_of_too_many_groups_is_refused(
    store: RecordStore, make_record: MakeRecord
) -> None:
    """A window so short that each record has a group of its own is the client's mistake."""
    store.write([make_record(f"r{n}", accepted_at_ns=n) for n in range(2001)])
    with pytest.raises(InvalidRequest, match="longer window"):
        store.summary(EVERYTHING, window_ns=1, cancelled=never)
