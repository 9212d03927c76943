"""Reads the service's records of the time of a run."""

import asyncio
import time
from collections.abc import Collection, Sequence

import httpx
import msgspec
from msgspec import Struct

from loadtest.errors import LoadTestError
from service.core.record import RequestRecord

_PAGE_ROWS = 1000
#: How far the clocks of two machines may be apart.
_CLOCK_SLACK_NS = 600_000_000_000


class _Page(Struct):
    data: list[RequestRecord]
    next_cursor: str | None


async def fetch_records(
    http: httpx.AsyncClient, asked: Collection[str], since_ns: int, *, patience_s: float = 10.0
) -> list[RequestRecord] | None:
    """All records since the run began, of others too; None if the service has no such API.

    Waits until no request of ours is running any more: the service may still be ending one that
    was given up.

    Raises:
        LoadTestError: The service has the API and does not give the records.
    """
    deadline = time.monotonic() + patience_s
    while True:
        records = await _fetch(http, since_ns - _CLOCK_SLACK_NS)
        if records is None or time.monotonic() > deadline or _settled(records, asked):
            return records
        await asyncio.sleep(0.2)


def _settled(records: Sequence[RequestRecord], asked: Collection[str]) -> bool:
    ours = [record for record in records if record.client_request_id in asked]
    return all(record.phase == "final" for record in ours)


async def _fetch(http: httpx.AsyncClient, since_ns: int) -> list[RequestRecord] | None:
    records: list[RequestRecord] = []
    query: dict[str, str | int] = {"since": since_ns, "limit": _PAGE_ROWS}
    while True:
        try:
            answer = await http.get("/v1/records", params=query)
            if answer.status_code == httpx.codes.NOT_FOUND:
                return None
            page = msgspec.json.decode(answer.raise_for_status().content, type=_Page)
        except (httpx.HTTPError, msgspec.DecodeError) as error:
            raise LoadTestError(f"the records cannot be read: {error}") from error
        records += page.data
        if page.next_cursor is None:
            return records
        query["cursor"] = page.next_cursor
