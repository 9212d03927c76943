"""Statistics of a route: what each arm's requests cost, and whether the arms differ."""

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Final

from msgspec import Struct

from service.core.errors import QueryCancelled
from service.core.metrics import Quantiles
from service.core.ports import RecordFilter, RecordSink, RecordStore
from service.core.record import RequestRecord, Status
from service.core.routes.route import BlindRoute, CompareRoute, Route, ShadowRoute, WeightedRoute
from service.core.summary import Summary, served_id
from service.serving.records.query_pool import Cancelled, QueryPool
from service.serving.routes.reports.comparison import ArmComparison, ArmMoments

#: Most requests whose arms are compared, the first ones of the period, and most errors counted.
MOST_ROWS: Final = 20_000

_DIFFERENT: Final = (
    "the arms of a route by {policy} are given different requests, and are not compared"
)
#: Notes of policies whose arms are not compared here for another reason.
_NOT_COMPARED: Final[dict[type, str]] = {
    ShadowRoute: "shadows run after their primaries, only while nobody else is there, and end when "
    "somebody comes: compare a primary with its own shadows, which `shadow_of` names",
    CompareRoute: "each answer is a comparison of its own, by `comparison_id`",
}


class ArmStatistics(Struct, frozen=True, kw_only=True):
    """Requests that one arm answered, or failed to. Sums and percentiles as in summaries."""

    model: str | None
    """None for requests that reached no model."""
    requests: int
    by_status: dict[Status, int]
    errors: dict[str, int]
    """Counts by error code."""
    cold: int
    prompt_tokens: int | None
    cached_tokens: int | None
    completion_tokens: int | None
    completion_bytes: int | None
    ttft_ms: Quantiles
    """Over complete answers that did not wait for a load; p95 from 72, p99 from 368 of them."""
    tpot_ms: Quantiles
    e2e_ms: Quantiles


class RouteStatistics(Struct, frozen=True, kw_only=True):
    """Statistics of a route in a period."""

    route: str
    policy: str
    since_ns: int | None
    until_ns: int | None
    arms: tuple[ArmStatistics, ...]
    comparisons: tuple[ArmComparison, ...]
    """Of a weighted or blind route, whose arms have like requests; of others none."""
    compared_requests: int
    """Requests that `comparisons` are by: the first 20,000 of the period at most."""
    notes: tuple[str, ...]


class RouteReports:
    """Computes statistics of routes from the records, one at a time."""

    def __init__(self, store: RecordStore, sink: RecordSink) -> None:
        self._store = store
        self._sink = sink
        self._queries = QueryPool("route statistics", threads=1, max_waiting=8)

    async def statistics(
        self, name: str, route: Route, *, since_ns: int | None, until_ns: int | None
    ) -> RouteStatistics:
        """Statistics of a route in a period. Raises Overloaded or StoreUnavailable."""
        await self._sink.flushed()
        where = RecordFilter(requested_model=name, since_ns=since_ns, until_ns=until_ns)
        return await self._queries.run(
            lambda cancelled: _statistics(self._store, name, route, where, cancelled)
        )

    def close(self) -> None:
        """Cancel what runs."""
        self._queries.close()


def _statistics(
    store: RecordStore, name: str, route: Route, where: RecordFilter, cancelled: Cancelled
) -> RouteStatistics:
    summary = store.summary(where, window_ns=None, cancelled=cancelled)
    errors, all_errors = _errors(store, where, cancelled)
    notes = [] if all_errors else [f"errors by code are those of the first {MOST_ROWS:,} only"]
    comparisons: tuple[ArmComparison, ...] = ()
    compared = 0
    if isinstance(route, WeightedRoute | BlindRoute):
        comparisons, compared, more = _comparisons(store, name, route, where, cancelled)
        notes += more
    else:
        notes.append(_NOT_COMPARED.get(type(route), _DIFFERENT).format(policy=route.policy))
    return RouteStatistics(
        route=name,
        policy=route.policy,
        since_ns=where.since_ns,
        until_ns=where.until_ns,
        arms=tuple(
            _arm(group.model, group.summary, errors.get(group.model, Counter()))
            for group in summary.groups
        ),
        comparisons=comparisons,
        compared_requests=compared,
        notes=tuple(notes),
    )


def _arm(model: str | None, summary: Summary, errors: Counter[str]) -> ArmStatistics:
    return ArmStatistics(
        model=model,
        requests=summary.count,
        by_status=summary.by_status,
        errors=dict(errors),
        cold=summary.cold,
        prompt_tokens=summary.prompt_tokens,
        cached_tokens=summary.cached_tokens,
        completion_tokens=summary.completion_tokens,
        completion_bytes=summary.completion_bytes,
        ttft_ms=summary.metrics["ttft_ms"],
        tpot_ms=summary.metrics["tpot_ms"],
        e2e_ms=summary.metrics["e2e_ms"],
    )


def _errors(
    store: RecordStore, where: RecordFilter, cancelled: Cancelled
) -> tuple[dict[str | None, Counter[str]], bool]:
    """Error codes by arm, and whether these are all."""
    found: dict[str | None, Counter[str]] = {}
    failed = RecordFilter(
        requested_model=where.requested_model,
        with_error=True,
        since_ns=where.since_ns,
        until_ns=where.until_ns,
    )
    count = 0
    for record in _first(store.iterate(failed), cancelled):
        count += 1
        arm = served_id(record.model, record.variant)
        found.setdefault(arm, Counter())[record.error_code or ""] += 1
    return found, count < MOST_ROWS


def _comparisons(
    store: RecordStore,
    name: str,
    route: WeightedRoute | BlindRoute,
    where: RecordFilter,
    cancelled: Cancelled,
) -> tuple[tuple[ArmComparison, ...], int, list[str]]:
    """Comparisons, the number of requests they are by, and what to mind.

    They are the first of the period, not the latest: intervals stay valid while requests are added
    to a fixed beginning, not while they slide along.
    """
    routed = RecordFilter(route=name, since_ns=where.since_ns, until_ns=where.until_ns)
    moments = ArmMoments()
    count = moments.add(_first(store.iterate(routed), cancelled))
    notes: list[str] = []
    if count == MOST_ROWS:
        notes.append(
            f"arms are compared by the first {MOST_ROWS:,} requests of the period; give a later "
            "`since` for others"
        )
    if moments.sticky:
        notes.append(
            f"{moments.sticky} of {count} requests were kept on their client's arm: requests of "
            "one client are alike, and the intervals take them for independent"
        )
    return moments.comparisons(route.models), count, notes


def _first(records: Iterable[RequestRecord], cancelled: Cancelled) -> Iterator[RequestRecord]:
    for record in islice(records, MOST_ROWS):
        if cancelled():
            raise QueryCancelled("the statistics were cancelled")
        yield record
