"""Numbers of a run, from observations and records: pure."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from msgspec import Struct

from loadtest.observation import Observation
from loadtest.plan import Plan, Slo
from loadtest.results.agreement import Agreement, agreement, disagreements
from loadtest.results.censored import CensoredQuantiles, censored_quantiles
from loadtest.run import Results
from service.core.compare.comparison import live_state_bytes
from service.core.events import StateBytes
from service.core.metrics import Quantiles, percentile, quantiles
from service.core.record import RequestRecord


class Goodput(Struct, frozen=True, kw_only=True):
    """Requests that were answered whole and met every objective of the plan."""

    met: int
    share: float
    """Of all requests: refused, failed and timed out ones met none."""
    per_s: float | None
    """Per second of the model's turns."""


class ModelSummary(Struct, frozen=True, kw_only=True):
    """Results of a model. Times exclude cold answers; unsuccessful requests are censored.

    A percentile of a time that falls on a censored request is "censored": slower than any answer.
    """

    model: str
    requests: int
    ok: int
    errors: dict[str, int]
    """Requests that did not end well, by reason."""
    cold: int
    """Answers that waited for the model to load: excluded from all times."""
    unverified: int
    """Answers of a model that failed its conformance probe."""
    goodput: Goodput | None
    """None without objectives in the plan."""
    ttft_ms: CensoredQuantiles
    """From the planned moment."""
    ttft_from_sent_ms: CensoredQuantiles
    tpot_ms: CensoredQuantiles
    e2e_ms: CensoredQuantiles
    """From the planned moment."""
    tokens_per_s: Quantiles
    """Of each answer while it decodes."""
    bytes_per_s: Quantiles
    """The same in UTF-8 bytes of text: comparable between tokenizers."""
    agreement: Agreement
    completion_tokens: int
    completion_bytes: int
    busy_s: float
    """Duration of the model's turns."""
    total_tokens_per_s: float | None
    """Tokens of whole answers / busy time."""
    total_bytes_per_s: float | None
    state_bytes: dict[str, Quantiles]
    """Bytes of one request's state at its end, by kind."""
    live_state_bytes: Quantiles
    """The kinds that the request itself uses, together: reserved bytes are left out."""


class ClientSummary(Struct, frozen=True, kw_only=True):
    """Lag and CPU time of the load test itself."""

    send_lag_ms: Quantiles
    """Dispatched − planned, over all requests."""
    loop_lag_ms: Quantiles
    """How late a periodic timer of the measuring process fired."""
    cpu_percent: float | None
    """CPU time of both processes over wall time; 100 is one core. None for an interrupted run."""
    wire_cpu_percent: float | None
    """Of the measuring process alone."""


class RunSummary(Struct, frozen=True, kw_only=True):
    """A whole run."""

    requests: int
    planned_requests: int
    interrupted: bool
    warmup_errors: dict[str, int]
    """Warm-up requests that did not end well, by reason."""
    client: ClientSummary
    invalid: tuple[str, ...]
    """Why the run's numbers must not be used; empty for a valid run."""
    models: tuple[ModelSummary, ...]


def summarize(
    plan: Plan,
    results: Results,
    records: Mapping[str, RequestRecord] | None = None,
    *,
    faults: Sequence[str] = (),
) -> RunSummary:
    """All numbers of a run.

    *records* are the service's, by client request id; *faults* that are known make it invalid.
    """
    seen = results.observations
    models = tuple(
        _of_model(
            plan.slo,
            model,
            [one for one in seen if one.model == model],
            records or {},
            results.busy_ns[model],
        )
        for model in plan.models
    )
    client = _client(results)
    return RunSummary(
        requests=len(seen),
        planned_requests=plan.requests_per_model * len(plan.models),
        interrupted=results.interrupted,
        warmup_errors=_errors(results.warmups),
        client=client,
        invalid=(*faults, *_faults(plan, results, models)),
        models=models,
    )


def _client(results: Results) -> ClientSummary:
    wire_ns = results.wire_cpu_ns
    known = results.wall_ns and wire_ns is not None
    return ClientSummary(
        send_lag_ms=quantiles(one.send_lag_ms for one in results.observations),
        loop_lag_ms=quantiles(lag_ns / 1e6 for lag_ns in results.loop_lags_ns),
        cpu_percent=(
            100 * (results.client_cpu_ns + wire_ns) / results.wall_ns
            if known and wire_ns is not None
            else None
        ),
        wire_cpu_percent=(
            100 * wire_ns / results.wall_ns if known and wire_ns is not None else None
        ),
    )


def _faults(plan: Plan, results: Results, models: Sequence[ModelSummary]) -> Iterable[str]:
    seen, bounds = results.observations, plan.validity
    if not seen:
        yield "no request was sent"
        return
    lag_ms = percentile((one.send_lag_ms for one in seen), 0.95) or 0.0
    if lag_ms > bounds.max_send_lag_p95_ms:
        yield (
            f"send lag p95 is {lag_ms:.1f} ms, more than {bounds.max_send_lag_p95_ms:g} ms: "
            "the client could not keep the schedule"
        )
    loop_ms = (percentile(results.loop_lags_ns, 0.95) or 0.0) / 1e6
    if loop_ms > bounds.max_loop_lag_p95_ms:
        yield (
            f"loop lag p95 of the measuring process is {loop_ms:.1f} ms, more than "
            f"{bounds.max_loop_lag_p95_ms:g} ms: stamps were late"
        )
    for model in models:
        yield from disagreements(model.model, model.agreement, bounds)


def _of_model(
    slo: Slo,
    model: str,
    seen: Sequence[Observation],
    records: Mapping[str, RequestRecord],
    busy_ns: int,
) -> ModelSummary:
    ok = [one for one in seen if one.outcome == "ok"]
    warm = [one for one in ok if not one.cold]
    censored = len(seen) - len(ok)
    tokens = sum(one.completion_tokens or 0 for one in ok)
    text_bytes = sum(one.text_bytes for one in ok)
    states = [
        records[one.client_request_id].state for one in ok if one.client_request_id in records
    ]

    def times(of: Callable[[Observation], float | None]) -> CensoredQuantiles:
        return censored_quantiles(_known(warm, of), censored)

    return ModelSummary(
        model=model,
        requests=len(seen),
        ok=len(ok),
        errors=_errors(seen),
        cold=len(ok) - len(warm),
        unverified=sum(one.verified is False for one in ok),
        goodput=_goodput(slo, ok, len(seen), busy_ns),
        ttft_ms=times(lambda one: one.ttft_ms),
        ttft_from_sent_ms=times(lambda one: one.ttft_from_sent_ms),
        tpot_ms=times(lambda one: one.tpot_ms),
        e2e_ms=times(lambda one: one.e2e_ms),
        tokens_per_s=quantiles(_known(warm, lambda one: one.tokens_per_s)),
        bytes_per_s=quantiles(_known(warm, lambda one: one.bytes_per_s)),
        agreement=agreement(warm, records),
        completion_tokens=tokens,
        completion_bytes=text_bytes,
        busy_s=busy_ns / 1e9,
        total_tokens_per_s=tokens * 1e9 / busy_ns if busy_ns else None,
        total_bytes_per_s=text_bytes * 1e9 / busy_ns if busy_ns else None,
        state_bytes={
            kind: quantiles(held)
            for kind in StateBytes.__struct_fields__
            if (held := [size for one in states if (size := getattr(one, kind)) is not None])
        },
        live_state_bytes=quantiles(
            live for one in states if (live := live_state_bytes(one)) is not None
        ),
    )


def _goodput(slo: Slo, ok: Sequence[Observation], requests: int, busy_ns: int) -> Goodput | None:
    if not slo or not requests:
        return None
    met = sum(_meets(slo, one) for one in ok)
    return Goodput(met=met, share=met / requests, per_s=met * 1e9 / busy_ns if busy_ns else None)


def _meets(slo: Slo, seen: Observation) -> bool:
    """All objectives hold; a time that one token has not, such as TPOT, breaks none."""
    pairs = (
        (slo.ttft_ms, seen.ttft_ms),
        (slo.tpot_ms, seen.tpot_ms),
        (slo.e2e_ms, seen.e2e_ms),
    )
    return all(most is None or value is None or value <= most for most, value in pairs)


def _errors(seen: Sequence[Observation]) -> dict[str, int]:
    return dict(Counter(one.error or one.outcome for one in seen if one.outcome != "ok"))


def _known(
    seen: Sequence[Observation], number: Callable[[Observation], float | None]
) -> list[float]:
    return [value for one in seen if (value := number(one)) is not None]
