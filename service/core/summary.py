"""Summaries of records: counts, sums and percentiles, by model and window."""

from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain

from msgspec import Struct, structs

from service.core.errors import InvalidRequest
from service.core.events import StateBytes
from service.core.metrics import Quantiles, RequestMetrics, derive, quantiles
from service.core.record import RequestRecord, Status

_METRICS = RequestMetrics.__struct_fields__
_STATE = StateBytes.__struct_fields__
#: Fields of a record that are added up.
SUMS = ("prompt_tokens", "cached_tokens", "completion_tokens", "completion_bytes")


#: Most groups of a summary: a larger answer would be many megabytes.
MAX_GROUPS = 2000


class Summary(Struct, frozen=True, kw_only=True):
    """Summary of a set of records. Sums are over records with a known value; None without any."""

    count: int
    by_status: dict[Status, int]
    cold: int
    """Requests that waited for their model to load."""
    verified: int
    """Requests to a model that had passed the conformance probe."""
    unverified: int
    """Requests to a model that had failed it."""
    prompt_tokens: int | None
    cached_tokens: int | None
    completion_tokens: int | None
    completion_bytes: int | None
    energy_uj: dict[str, int]
    """Microjoules by source, over requests whose energy is known; none for a source without any."""
    metrics: dict[str, Quantiles]
    """Percentiles by metric, over complete answers; cold ones count only in `load_ms`."""
    state: dict[str, Quantiles]
    """Percentiles by kind of state bytes, over complete answers."""


class SummaryGroup(Struct, frozen=True, kw_only=True):
    """The summary of one model, in one window if windows were asked for."""

    model: str | None
    """`model` or `model:variant`; None for requests that reached no model."""
    window_start_ns: int | None
    """Wall clock; windows are aligned to the epoch."""
    summary: Summary


class RecordSummary(Struct, frozen=True, kw_only=True):
    """Summary of all records, and of each group by window and model."""

    window_ns: int | None
    total: Summary
    groups: tuple[SummaryGroup, ...]


def summarize(records: Iterable[RequestRecord], *, window_ns: int | None = None) -> RecordSummary:
    """Summarize records by model and, if given, by windows of the wall clock.

    Raises InvalidRequest if there would be too many groups.
    """
    tallies: dict[tuple[int | None, str | None], _Tally] = {}
    for record in records:
        window = None if window_ns is None else record.accepted_at_ns // window_ns * window_ns
        key = (window, served_id(record.model, record.variant))
        tally = tallies.get(key)
        if tally is None:
            tally = tallies[key] = _Tally()
            check_groups(len(tallies))
        tally.add(record)
    return RecordSummary(
        window_ns=window_ns,
        total=_together(list(tallies.values())),
        groups=tuple(
            SummaryGroup(model=model, window_start_ns=window, summary=_together([tally]))
            for (window, model), tally in sorted(tallies.items(), key=_window_then_model)
        ),
    )


def check_groups(count: int) -> None:
    """Refuse a summary of too many groups. Raises InvalidRequest."""
    if count > MAX_GROUPS:
        raise InvalidRequest(
            f"the summary would have more than {MAX_GROUPS} groups of window and model; use a "
            "longer window, or narrow it with since, until and model",
            param="window",
        )


def served_id(model: str | None, variant: str | None) -> str | None:
    """`model` or `model:variant`; None if no model was reached."""
    return f"{model}:{variant}" if variant else model


class _Tally:
    """The numbers of one group."""

    def __init__(self) -> None:
        self.by_status: Counter[Status] = Counter()
        self.flags: Counter[str] = Counter()
        self.sums: dict[str, int] = {}
        self.energy_uj: dict[str, int] = {}
        self.metrics = {name: array("d") for name in _METRICS}
        self.state = {name: array("d") for name in _STATE}

    def add(self, record: RequestRecord) -> None:
        self.by_status[record.status] += 1
        self.flags["cold"] += record.cold
        self.flags["verified"] += record.verified is True
        self.flags["unverified"] += record.verified is False
        for name in SUMS:
            count = getattr(record, name)
            if count is not None:
                self.sums[name] = self.sums.get(name, 0) + count
        spent = record.energy
        if spent.energy_uj is not None and spent.energy_source is not None:
            so_far_uj = self.energy_uj.get(spent.energy_source, 0)
            self.energy_uj[spent.energy_source] = so_far_uj + spent.energy_uj
        if record.status == "ok":
            _collect(self.metrics, derive(record), only={"load_ms"} if record.cold else None)
            _collect(self.state, record.state)


def _collect(
    into: dict[str, "array[float]"], numbers: Struct, only: set[str] | None = None
) -> None:
    for name, number in structs.asdict(numbers).items():
        if number is not None and (only is None or name in only):
            into[name].append(number)


def _together(tallies: Sequence[_Tally]) -> Summary:
    by_status = sum((tally.by_status for tally in tallies), Counter[Status]())
    flags = sum((tally.flags for tally in tallies), Counter[str]())
    sums = {
        name: sum(known) if (known := [t.sums[name] for t in tallies if name in t.sums]) else None
        for name in SUMS
    }
    return Summary(
        count=by_status.total(),
        by_status=dict(by_status),
        cold=flags["cold"],
        verified=flags["verified"],
        unverified=flags["unverified"],
        energy_uj={
            source: sum(tally.energy_uj.get(source, 0) for tally in tallies)
            for source in sorted({source for tally in tallies for source in tally.energy_uj})
        },
        metrics={
            name: quantiles(chain.from_iterable(tally.metrics[name] for tally in tallies))
            for name in _METRICS
        },
        state={
            name: quantiles(chain.from_iterable(tally.state[name] for tally in tallies))
            for name in _STATE
        },
        **sums,
    )


def _window_then_model(
    item: tuple[tuple[int | None, str | None], _Tally],
) -> tuple[int, str]:
    window, model = item[0]
    return (window or 0, model or "")
