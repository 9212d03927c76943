"""Records over HTTP: what was written is listed, filtered, summed up and exported."""

import csv
import io
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from pathlib import Path

import httpx
import msgspec
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from litestar import Litestar
from litestar.di import Provide
from litestar.testing import TestClient

from service.api.errors import EXCEPTION_HANDLERS
from service.api.records import record_handlers
from service.core.errors import Overloaded, QueryCancelled, StoreUnavailable
from service.core.ports import RecordFilter, RecordStore
from service.core.record import RequestRecord
from service.serving.records.report import MOST_EXPORTS, Reports
from service.storage import open_store
from service.storage.writer import RecordWriter
from support.waiting import wait_until

MakeRecord = Callable[..., RequestRecord]
SECOND_NS = 1_000_000_000


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RecordStore]:
    opened = open_store(f"sqlite:///{tmp_path}/records.db")
    yield opened
    opened.close()


@pytest.fixture
def sink(store: RecordStore) -> Iterator[RecordWriter]:
    writer = RecordWriter(store)
    writer.start()
    yield writer
    writer.close()


@pytest.fixture
def client(store: RecordStore, sink: RecordWriter) -> Iterator[TestClient]:
    reports = Reports(store, sink)
    app = Litestar(
        record_handlers,
        on_shutdown=[reports.close],
        dependencies={
            "reports": Provide(lambda: reports, sync_to_thread=False),
        },
        exception_handlers=EXCEPTION_HANDLERS,
    )
    with TestClient(app, raise_server_exceptions=False) as opened:
        yield opened


def test_a_client_reads_its_own_request(client, sink, make_record: MakeRecord) -> None:
    """A record submitted a moment ago is there, with the metrics derived from it."""
    sink.submit(make_record("r", client_request_id="mine"))

    body = client.get("/v1/records/r").json()

    assert (body["request_id"], body["client_request_id"]) == ("r", "mine")
    assert body["state"]["attention_kv_bytes"] == 4096
    assert (body["metrics"]["ttft_ms"], body["metrics"]["tpot_ms"]) == (23.0, 10.0)


def test_an_unknown_record_is_not_found(client) -> None:
    """An id without a record is 404 with the usual error body."""
    answer = client.get("/v1/records/nothing")

    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "not_found"


def test_pages_follow_cursors(client, sink, make_record: MakeRecord) -> None:
    """`next_cursor` leads through all records, and is null at the end."""
    for n in range(5):
        sink.submit(make_record(f"r{n}", accepted_at_ns=n))

    first = client.get("/v1/records", params={"limit": 3}).json()
    second = client.get("/v1/records", params={"limit": 3, "cursor": first["next_cursor"]}).json()

    ids = [record["request_id"] for record in first["data"] + second["data"]]
    assert ids == ["r4", "r3", "r2", "r1", "r0"]
    assert second["next_cursor"] is None


def test_filters_combine(client, sink, make_record: MakeRecord) -> None:
    """All filters of the query hold together."""
    sink.submit(make_record("a", accepted_at_ns=SECOND_NS))
    sink.submit(make_record("b", accepted_at_ns=2 * SECOND_NS, status="failed"))
    sink.submit(make_record("c", accepted_at_ns=2 * SECOND_NS, model="n", requested_model="n"))

    query = {"status": "ok", "since": "1970-01-01T01:00:02+01:00", "model": "n"}
    found = client.get("/v1/records", params=query).json()["data"]

    assert [record["request_id"] for record in found] == ["c"]


def cursor_of(*position: object) -> str:
    return urlsafe_b64encode(msgspec.json.encode(position)).decode().rstrip("=")


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ({"status": "fine"}, "status"),
        ({"family": "rnn"}, "family"),
        ({"limit": "0"}, "limit"),
        ({"limit": "1001"}, "limit"),
        ({"cursor": "x"}, "cursor"),
        ({"since": "yesterday"}, "since"),
        ({"until": "2026-11-24T12:00:00"}, "until"),
        ({"stauts": "ok"}, "stauts"),
        ({"since": "1" * 25}, "since"),
        ({"since": "1" * 5000}, "since"),
        ({"until": "0001-01-01T00:00:00Z"}, "until"),
        ({"until": "0001-01-01T00:00:00+23:59"}, "until"),
        ({"until": "9999-12-31T23:59:59Z"}, "until"),
        ({"cursor": cursor_of(2**64, "r")}, "cursor"),
        ({"cursor": cursor_of(-(2**63) - 1, "r")}, "cursor"),
    ],
)
def test_a_wrong_query_is_refused_by_name(client, query: dict[str, str], param: str) -> None:
    """A parameter that is unknown or has no valid value is 400 and named."""
    answer = client.get("/v1/records", params=query)

    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


def test_a_summary_counts_by_model_and_window(client, sink, make_record: MakeRecord) -> None:
    """Totals and groups of the summary agree with what was written."""
    for n in range(4):
        sink.submit(make_record(f"r{n}", accepted_at_ns=n * 40 * SECOND_NS))
    sink.submit(make_record("x", accepted_at_ns=0, model="n", status="failed", verified=False))

    body = client.get("/v1/records/summary", params={"window": "60s"}).json()

    groups = [(g["model"], g["window_start_ns"], g["summary"]["count"]) for g in body["groups"]]
    assert groups == [("m", 0, 2), ("n", 0, 1), ("m", 60 * SECOND_NS, 1), ("m", 120 * SECOND_NS, 1)]
    assert body["total"]["by_status"] == {"ok": 4, "failed": 1}
    assert body["total"]["metrics"]["ttft_ms"]["p50"] == 23.0


INSTANTS = (
    st.text("0123456789-+:TZ. ", max_size=40)
    | st.datetimes(timezones=st.timezones() | st.none()).map(lambda moment: moment.isoformat())
    | st.integers(-(2**70), 2**70).map(str)
)
QUERIES = st.fixed_dictionaries(
    {},
    optional={
        "since": INSTANTS,
        "until": INSTANTS,
        "cursor": st.text(max_size=30)
        | st.builds(cursor_of, st.integers(-(2**66), 2**66), st.text(max_size=8)),
        "limit": st.integers(-(2**70), 2**70).map(str) | st.text(max_size=6),
        "window": st.from_regex(r"[0-9]{1,7}[smhd]", fullmatch=True) | st.text(max_size=6),
        "model": st.text(max_size=8),
        "requested_model": st.text(max_size=8),
    },
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(query=QUERIES)
def test_no_query_is_an_error_of_ours(client, sink, make_record: MakeRecord, query) -> None:
    """Whatever the parameters say, the answer is a page or summary, or 400 that names one."""
    sink.submit(make_record("r"))

    for path in ("/v1/records", "/v1/records/summary"):
        answer = client.get(path, params=query)

        assert answer.status_code in (200, 400), answer.text
        if answer.status_code == 400:
            assert answer.json()["error"]["param"] in query


@pytest.mark.parametrize("window", ["0s", "1", "1.5s", "s", "-1s", "60S", "999999d"])
def test_a_wrong_window_is_refused(client, window: str) -> None:
    """A window is a whole number of seconds, minutes, hours or days."""
    assert client.get("/v1/records/summary", params={"window": window}).status_code == 400


def test_a_summary_of_too_many_groups_is_refused(client, sink, make_record: MakeRecord) -> None:
    """A second's window over weeks of records would be an answer of megabytes."""
    for n in range(2001):
        sink.submit(make_record(f"r{n}", accepted_at_ns=n * SECOND_NS))

    answer = client.get("/v1/records/summary", params={"window": "1s"})

    assert answer.status_code == 400
    assert "longer window" in answer.json()["error"]["message"]


def test_json_lines_hold_whole_records(client, sink, make_record: MakeRecord) -> None:
    """Each line decodes to the record that was written."""
    records = [make_record(f"r{n:04}", accepted_at_ns=n) for n in range(2500)]
    for record in records:
        sink.submit(record)

    answer = client.get("/v1/records/export")

    lines = msgspec.json.Decoder(RequestRecord).decode_lines(answer.content)
    assert answer.headers["content-type"].startswith("application/jsonl")
    assert lines == records


def test_csv_has_a_header_and_unknown_is_empty(client, sink, make_record: MakeRecord) -> None:
    """A CSV export has flat columns; None is an empty field."""
    sink.submit(make_record("r", sampling={"seed": 1}, error_code=None))

    answer = client.get("/v1/records/export", params={"format": "csv"})

    (row,) = csv.DictReader(io.StringIO(answer.text))
    assert (row["request_id"], row["attention_kv_bytes"], row["ttft_ms"]) == ("r", "4096", "23")
    assert (row["error_code"], row["sampling"], row["dtype"]) == ("", '{"seed":1}', "bfloat16")


@pytest.mark.parametrize("first", ["=", "+", "-", "@", "\t", "\r"])
def test_csv_holds_no_formulas(client, sink, make_record: MakeRecord, first: str) -> None:
    """A spreadsheet that opens the export runs nothing that a client wrote."""
    evil = f"{first}HYPERLINK(1)"
    sink.submit(make_record("r", requested_model=evil, client_request_id="a=b", arm=-1))

    answer = client.get("/v1/records/export", params={"format": "csv"})

    (row,) = csv.DictReader(io.StringIO(answer.text, newline=""))
    assert (row["requested_model"], row["client_request_id"]) == (f"'{evil}", "a=b")
    assert row["arm"] == "-1"


def test_parquet_reads_back(client, sink, make_record: MakeRecord) -> None:
    """A Parquet export of several batches holds every record, filtered as asked."""
    for n in range(2500):
        sink.submit(make_record(f"r{n:04}", accepted_at_ns=n))

    query = {"format": "parquet", "until": "2400"}
    answer = client.get("/v1/records/export", params=query)

    table = pyarrow.parquet.read_table(io.BytesIO(answer.content))
    assert table.num_rows == 2400
    assert table.column("accepted_at_ns").to_pylist() == list(range(2400))
    assert table.column("window_kv_bytes").null_count == 2400


@pytest.mark.parametrize(
    ("path", "query", "param"),
    [
        ("/export", "limit=1", "limit"),
        ("/export", "window=1h", "window"),
        ("/export", "format=xml", "format"),
        ("/summary", "format=csv", "format"),
        ("", "window=1h", "window"),
        ("", "limit=1&limit=2", "limit"),
        ("/summary", "model=a&model=b", "model"),
        ("/summary", "where=x", "where"),
    ],
)
def test_no_query_parameter_is_ignored(client, path: str, query: str, param: str) -> None:
    """Each endpoint refuses those of the others, and repeated ones: once they had no effect."""
    answer = client.get(f"/v1/records{path}?{query}")

    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


async def test_exports_are_bounded_in_number(store, sink, make_record: MakeRecord) -> None:
    """Each takes a thread and some 20 MB: beyond the bound they are refused, until one ends."""
    for n in range(3000):
        sink.submit(make_record(f"r{n:04}", accepted_at_ns=n))
    reports = Reports(store, sink)
    running = [reports.export(RecordFilter(), "csv") for _ in range(MOST_EXPORTS)]
    for export in running:
        assert await anext(export)

    with pytest.raises(Overloaded) as caught:
        await anext(reports.export(RecordFilter(), "csv"))
    await running.pop().aclose()
    async with aclosing(reports.export(RecordFilter(), "csv")) as another:
        whole = b"".join([part async for part in another])

    assert caught.value.retry_after_s
    assert len(whole.splitlines()) == 3001
    for export in running:
        await export.aclose()
    reports.close()


def test_an_export_that_is_refused_is_503(client, store, monkeypatch) -> None:
    """The first piece is read before the status is sent: once a failure broke the file off."""
    monkeypatch.setattr(store, "iterate", broken)

    answer = client.get("/v1/records/export")

    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "store_unavailable"


def broken(_where: RecordFilter) -> Iterator[RequestRecord]:
    """A store that fails while it is read."""
    raise StoreUnavailable("The record store cannot be used: disk I/O error.")
    yield


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet"])
def test_an_export_of_nothing_is_a_valid_file(client, form: str) -> None:
    """No records make an empty file of the format, not an error."""
    answer = client.get("/v1/records/export", params={"format": form})

    assert answer.status_code == 200
    if form == "parquet":
        assert pyarrow.parquet.read_table(io.BytesIO(answer.content)).num_rows == 0
    else:
        assert len(answer.text.splitlines()) == (form == "csv")


def test_records_that_cannot_be_flushed_are_unavailable(client, sink, make_record) -> None:
    """While the log cannot be written reading answers 503, since it would show old news."""
    sink.close()
    sink._submitted_ns.append(0)  # a record that will never be written

    answer = client.get("/v1/records")
    sink._submitted_ns.clear()

    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "store_unavailable"
    assert answer.headers["retry-after"]


def until_cancelled(where, *, window_ns, cancelled):
    while not cancelled():
        time.sleep(0.001)
    raise QueryCancelled("nobody waits")


def test_a_summary_ends_with_its_client(live, monkeypatch) -> None:
    """Clients that leave free the thread, however many they are, and chats go on."""
    reports = live.application.reports
    monkeypatch.setattr(live.application.store, "summary", until_cancelled)
    for _ in range(3):
        with pytest.raises(httpx.ReadTimeout):
            live.get("/v1/records/summary", timeout=0.1)
    wait_until(lambda: reports.summaries == 0)
    assert live.chat().status_code == 200


def test_summaries_beyond_the_bound_are_refused(live, monkeypatch) -> None:
    """One runs, eight wait; the next is told when to try again."""
    reports = live.application.reports
    monkeypatch.setattr(live.application.store, "summary", until_cancelled)
    path = f"{live.base_url}/v1/records/summary"
    with ThreadPoolExecutor(9) as clients:
        waiting = [clients.submit(httpx.get, path, timeout=1) for _ in range(9)]
        wait_until(lambda: reports.summaries == 9)
        answer = live.get("/v1/records/summary")
        assert all(isinstance(one.exception(), httpx.ReadTimeout) for one in waiting)

    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "overloaded")
    assert answer.headers["retry-after"] == "1"
    wait_until(lambda: reports.summaries == 0)
