"""The record of a request: every accepted request leaves exactly one, however it ends."""

from typing import Final, Literal, overload

from msgspec import Struct

from model_registry.spec import Family
from service.core.events import ModelBuild, PrefixReuse, StateBytes
from service.core.work import Energy, Work

Phase = Literal["accepted", "final"]
Status = Literal["running", "ok", "cancelled", "failed", "refused", "interrupted"]


#: Longest model name, client id or label that a record keeps, in characters.
MAX_NAME_CHARACTERS = 256


class RequestRecord(Struct, frozen=True, kw_only=True):
    """Facts of a request. Times are nanoseconds of CLOCK_MONOTONIC; unknown is None.

    Written as `accepted` (status `running`) before the first byte and replaced by `final` after the
    last; an `accepted` row that a dead service left behind becomes `interrupted` at the next start.
    """

    request_id: str
    phase: Phase
    status: Status
    endpoint: str
    stream: bool
    requested_model: str
    model: str | None = None
    """Base id of the model that answered; None if none was reached."""
    variant: str | None = None
    family: Family | None = None
    route: str | None = None
    """Route policy: `direct`, or that of the route that was asked for."""
    route_reason: str | None = None
    route_inputs: dict[str, object] | None = None
    """What the policy decided by, so that the decision can be computed again."""
    shadow_of: str | None = None
    """Request that this one shadowed."""
    replay_of: str | None = None
    """Request whose conversation this one answered again."""
    experiment_id: str | None = None
    finish_reason: str | None = None
    error_code: str | None = None
    client_request_id: str | None = None
    comparison_id: str | None = None
    arm: int | None = None
    cold: bool = False
    """True if the request waited for its model to load: left out of paired tests."""
    verified: bool | None = None
    """True if the model passed the conformance probe at its load; None if it was not probed."""

    accepted_at_ns: int
    """Wall clock, nanoseconds since the epoch: a label only."""
    accepted_ns: int
    queued_ns: int | None = None
    scheduled_ns: int | None = None
    first_ns: int | None = None
    last_ns: int | None = None
    closed_ns: int | None = None
    load_ns: int | None = None
    """Time that the request waited for its model to load."""
    itl_p50_ns: int | None = None
    itl_p95_ns: int | None = None
    itl_p99_ns: int | None = None
    itl_max_ns: int | None = None

    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    completion_tokens: int | None = None
    completion_bytes: int | None = None
    """UTF-8 bytes of the answer's text."""
    state: StateBytes = StateBytes()
    prefix: PrefixReuse = PrefixReuse()
    work: Work = Work()
    energy: Energy = Energy()
    workspace_peak_bytes: int | None = None
    co_scheduled: int | None = None
    build: ModelBuild | None = None

    sampling: dict[str, object] | None = None
    """The sampling parameters that differ from their defaults."""
    prompt_content: str | None = None
    """Kept only with `store_content = "full"`."""
    completion_content: str | None = None


#: Fields of a record that are structs of columns: spread over columns of their own names.
PARTS: Final[dict[str, type[Struct]]] = {
    "state": StateBytes,
    "prefix": PrefixReuse,
    "work": Work,
    "energy": Energy,
}


@overload
def bounded(name: str) -> str: ...
@overload
def bounded(name: None) -> None: ...
def bounded(name: str | None) -> str | None:
    """Truncate a name given by a client to the length that a record keeps."""
    if name is None or len(name) <= MAX_NAME_CHARACTERS:
        return name
    return name[: MAX_NAME_CHARACTERS - 1] + "…"
