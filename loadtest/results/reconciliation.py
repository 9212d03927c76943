"""Reconciles what the client saw with what the service recorded, one to one."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence

from msgspec import Struct

from loadtest.observation import Observation, Outcome
from service.core.errors import DeadlineExceeded
from service.core.metrics import elapsed_ns
from service.core.record import RequestRecord, Status

#: How a record may call what the client saw.
STATUSES: Mapping[Outcome, frozenset[Status]] = {
    "ok": frozenset({"ok"}),
    "refused": frozenset({"refused", "failed", "interrupted"}),
    "failed": frozenset({"failed", "refused", "interrupted", "cancelled"}),
    "timeout": frozenset({"cancelled", "interrupted"}),
}
#: A request that the service ended this close to the client's giving up may have ended anyhow.
_SAME_MOMENT_NS = 1_000_000_000


class Reconciliation(Struct, frozen=True, kw_only=True):
    """Every request has one record that says the same, and no record is unexplained."""

    checked: int
    missing: tuple[str, ...] = ()
    """Client request ids without a record."""
    duplicated: tuple[str, ...] = ()
    """Client request ids with several records."""
    differing: tuple[str, ...] = ()
    """Client request ids whose record says otherwise, with the difference."""
    extra: tuple[str, ...] = ()
    """Request ids that the service recorded during the run and that the run did not ask."""

    @property
    def complete(self) -> bool:
        """Every request was found once and equal, and nothing else."""
        return not (self.missing or self.duplicated or self.differing or self.extra)


def by_client_id(records: Sequence[RequestRecord]) -> dict[str, RequestRecord]:
    """Records by the client's own request id; the last of several, none without one."""
    return {record.client_request_id: record for record in records if record.client_request_id}


def reconcile(
    observations: Sequence[Observation],
    records: Sequence[RequestRecord],
    asked: Collection[str],
    *,
    exclusive: bool = True,
) -> Reconciliation:
    """Match requests with records by the client's own ids.

    Args:
        observations: What the client saw, warm-ups included.
        records: The service's records of the time of the run, others' too.
        asked: Client request ids of all requests, also of those that an interruption cut.
        exclusive: Records of others during the run count as extra.
    """
    found: dict[str, list[RequestRecord]] = defaultdict(list)
    for record in records:
        found[record.client_request_id or ""].append(record)
    missing, duplicated, differing = [], [], []
    for seen in observations:
        match found[seen.client_request_id]:
            case [] if seen.sent_ns is None:
                pass  # it never left: there was no connection
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
        extra=tuple(_extra(records, asked)) if exclusive else (),
    )


def _extra(records: Sequence[RequestRecord], asked: Collection[str]) -> list[str]:
    """Records between the first of ours and the end of the last, by the service's own clock."""
    ours = [record for record in records if record.client_request_id in asked]
    if not ours:
        return []
    begin_ns = min(record.accepted_ns for record in ours)
    end_ns = max(_end_ns(record) for record in ours)
    return [
        record.request_id
        for record in records
        if record.client_request_id not in asked and begin_ns <= record.accepted_ns <= end_ns
    ]


def _end_ns(record: RequestRecord) -> int:
    return record.closed_ns or record.last_ns or record.accepted_ns


def _differences(seen: Observation, record: RequestRecord) -> list[str]:
    differences = []
    if not _status_agrees(seen, record):
        code = f" {record.error_code}" if record.error_code else ""
        differences.append(f"status {record.status}{code} for {seen.outcome}")
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


def _status_agrees(seen: Observation, record: RequestRecord) -> bool:
    if record.status in STATUSES[seen.outcome]:
        return True
    if seen.outcome != "timeout" or record.phase != "final":
        return False
    if record.error_code == DeadlineExceeded.code:
        return True
    # Both sides ended the request at nearly the same moment: either may have been first.
    waited_ns = seen.ended_ns - (seen.sent_ns or seen.dispatched_ns)
    served_ns = elapsed_ns(_end_ns(record), record.accepted_ns) or 0
    return served_ns >= waited_ns - _SAME_MOMENT_NS
