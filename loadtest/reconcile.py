"""Holds what the client saw against what the service recorded."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence

import httpx
import msgspec
from msgspec import Struct

from loadtest.errors import LoadTestError
from loadtest.observation import Observation, Outcome
from service.core.record import RequestRecord, Status

_PAGE_ROWS = 1000
#: How far the clocks of two machines may be apart.
_CLOCK_SLACK_NS = 600_000_000_000

#: How a record may call what the client saw.
STATUSES: Mapping[Outcome, frozenset[Status]] = {
    "ok": frozenset({"ok"}),
    "refused": frozenset({"refused", "failed"}),
    "failed": frozenset({"failed", "refused", "interrupted"}),
    "timeout": frozenset({"cancelled"}),
}


class Reconciliation(Struct, frozen=True, kw_only=True):
    """Every request of the client has one record that says the same, if the lists are empty."""

    checked: int
    missing: tuple[str, ...]
    """Client request ids without a record."""
    duplicated: tuple[str, ...]
    """Client request ids with several records."""
    differing: tuple[str, ...]
    """Client request ids whose record says otherwise, with the difference."""

    @property
    def complete(self) -> bool:
        """Whether every request was found once and equal."""
        return not (self.missing or self.duplicated or self.differing)


class _Page(Struct):
    data: list[RequestRecord]
    next_cursor: str | None


async def fetch_records(
    http: httpx.AsyncClient, run_id: str, since_ns: int, *, patience_s: float = 10.0
) -> list[RequestRecord] | None:
    """All records of a run, once none of them is running any more; None if there is no such API.

    Raises:
        LoadTestError: The service has the API and does not give the records.
    """
    deadline = time.monotonic() + patience_s
    while True:
        records = await _fetch(http, run_id, since_ns - _CLOCK_SLACK_NS)
        # A client that gave up waits for nobody: the service may still be ending its request.
        if records is None or time.monotonic() > deadline:
            return records
        if all(record.phase == "final" for record in records):
            return records
        await asyncio.sleep(0.2)


async def _fetch(http: httpx.AsyncClient, run_id: str, since_ns: int) -> list[RequestRecord] | None:
    records: list[RequestRecord] = []
    query: dict[str, str | int] = {"since": since_ns, "limit": _PAGE_ROWS}
    while True:
        try:
            answer = await http.get("/v1/records", params=query, timeout=60)
            if answer.status_code == httpx.codes.NOT_FOUND:
                return None
            page = msgspec.json.decode(answer.raise_for_status().content, type=_Page)
        except (httpx.HTTPError, msgspec.DecodeError) as error:
            raise LoadTestError(f"the records cannot be read: {error}") from error
        records += [one for one in page.data if (one.client_request_id or "").startswith(run_id)]
        if page.next_cursor is None:
            return records
        query["cursor"] = page.next_cursor


def reconcile(
    observations: Sequence[Observation], records: Sequence[RequestRecord]
) -> Reconciliation:
    """Match requests with records by the client's own ids."""
    found: dict[str, list[RequestRecord]] = defaultdict(list)
    for record in records:
        found[record.client_request_id or ""].append(record)
    missing, duplicated, differing = [], [], []
    for seen in observations:
        match found[seen.client_request_id]:
            case []:
                missing.append(seen.client_request_id)
            case [record]:
                differences = _differences(seen, record)
                if differences:
                    differing.append(f"{seen.client_request_id}: {', '.join(differences)}")
            case _:
                duplicated.append(seen.client_request_id)
    return Reconciliation(
        checked=len(observations),
        missing=tuple(missing),
        duplicated=tuple(duplicated),
        differing=tuple(differing),
    )


def _differences(seen: Observation, record: RequestRecord) -> list[str]:
    differences = []
    if record.status not in STATUSES[seen.outcome]:
        differences.append(f"status {record.status} for {seen.outcome}")
    if seen.request_id not in (None, record.request_id):
        differences.append(f"request_id {record.request_id} for {seen.request_id}")
    if seen.outcome == "ok":
        pairs = {
            "prompt_tokens": (seen.prompt_tokens, record.prompt_tokens),
            "completion_tokens": (seen.completion_tokens, record.completion_tokens),
            "completion_bytes": (seen.text_bytes, record.completion_bytes),
            "finish_reason": (seen.finish_reason, record.finish_reason),
        }
        differences += [
            f"{name} {recorded} for {counted}"
            for name, (counted, recorded) in pairs.items()
            if counted != recorded
        ]
    return differences
