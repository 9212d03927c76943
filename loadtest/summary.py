"""Numbers of a run, from observations: pure."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from msgspec import Struct

from loadtest.observation import Observation
from loadtest.plan import Plan
from loadtest.run import Results
from service.core.metrics import Quantiles, percentile, quantiles

_LIVE_STATE = ("attention_kv_bytes", "window_kv_bytes", "ssm_state_bytes", "conv_state_bytes")


class ModelSummary(Struct, frozen=True, kw_only=True):
    """One model. Times are of requests answered whole by a model that was already loaded."""

    model: str
    requests: int
    ok: int
    errors: dict[str, int]
    """What went wrong, and how often."""
    cold: int
    """Answers that waited for the model to load: left out of all times."""
    unverified: int
    """Answers of a model that failed its conformance probe."""
    ttft_ms: Quantiles
    tpot_ms: Quantiles
    e2e_ms: Quantiles
    tokens_per_s: Quantiles
    """Of each request while it decodes."""
    bytes_per_s: Quantiles
    """The same in UTF-8 bytes of text: comparable between tokenizers."""
    server_ttft_ms: Quantiles
    """As the service measured it, from the accepted request."""
    completion_tokens: int
    completion_bytes: int
    busy_s: float
    """Duration of the model's turns."""
    total_tokens_per_s: float | None
    """Tokens of all requests / busy time."""
    total_bytes_per_s: float | None
    state_bytes: dict[str, Quantiles]
    """Bytes of one request's state at its end, by kind."""
    live_state_bytes: Quantiles
    """The kinds together that the request itself uses: what is reserved beyond is left out."""


class RunSummary(Struct, frozen=True, kw_only=True):
    """A whole run."""

    requests: int
    planned_requests: int
    interrupted: bool
    warmup_errors: dict[str, int]
    """What went wrong while warming up, and how often."""
    send_lag_ms: Quantiles
    """Sent − planned, over all requests."""
    client_cpu_percent: float | None
    """CPU time of the load test over wall time; 100 is one core."""
    invalid: tuple[str, ...]
    """Why the run's numbers must not be used; empty for a valid run."""
    models: tuple[ModelSummary, ...]


def summarize(plan: Plan, results: Results) -> RunSummary:
    """All numbers of a run."""
    seen = results.observations
    return RunSummary(
        requests=len(seen),
        planned_requests=plan.requests_per_model * len(plan.models),
        interrupted=results.interrupted,
        warmup_errors=_errors(results.warmups),
        send_lag_ms=quantiles(one.send_lag_ms for one in seen),
        client_cpu_percent=(
            100 * results.client_cpu_ns / results.wall_ns if results.wall_ns else None
        ),
        invalid=tuple(_faults(plan, seen)),
        models=tuple(
            _of_model(model, [one for one in seen if one.model == model], results.busy_ns[model])
            for model in plan.models
        ),
    )


def _faults(plan: Plan, seen: Sequence[Observation]) -> Iterable[str]:
    if not seen:
        yield "no request was sent"
        return
    lag_ms = percentile((one.send_lag_ms for one in seen), 0.95) or 0.0
    if lag_ms > plan.max_send_lag_p95_ms:
        yield (
            f"send lag p95 is {lag_ms:.1f} ms, more than {plan.max_send_lag_p95_ms:g} ms: "
            "the client could not keep the schedule"
        )


def _of_model(model: str, seen: Sequence[Observation], busy_ns: int) -> ModelSummary:
    ok = [one for one in seen if one.outcome == "ok"]
    warm = [one for one in ok if not one.server.cold]
    tokens = sum(one.completion_tokens or 0 for one in ok)
    text_bytes = sum(one.text_bytes for one in ok)
    return ModelSummary(
        model=model,
        requests=len(seen),
        ok=len(ok),
        errors=_errors(seen),
        cold=len(ok) - len(warm),
        unverified=sum(one.server.verified is False for one in ok),
        ttft_ms=_known(warm, lambda one: one.ttft_ms),
        tpot_ms=_known(warm, lambda one: one.tpot_ms),
        e2e_ms=_known(warm, lambda one: one.e2e_ms),
        tokens_per_s=_known(warm, lambda one: one.tokens_per_s),
        bytes_per_s=_known(warm, lambda one: one.bytes_per_s),
        server_ttft_ms=_known(warm, lambda one: one.server.ttft_ms),
        completion_tokens=tokens,
        completion_bytes=text_bytes,
        busy_s=busy_ns / 1e9,
        total_tokens_per_s=tokens * 1e9 / busy_ns if busy_ns else None,
        total_bytes_per_s=text_bytes * 1e9 / busy_ns if busy_ns else None,
        state_bytes={
            kind: quantiles(held for one in ok if (held := one.server.state.get(kind)) is not None)
            for kind in sorted({kind for one in ok for kind in one.server.state})
        },
        live_state_bytes=_known(ok, _live_state_bytes),
    )


def _errors(seen: Sequence[Observation]) -> dict[str, int]:
    return dict(Counter(one.error or one.outcome for one in seen if one.outcome != "ok"))


def _live_state_bytes(seen: Observation) -> int | None:
    known = [held for kind in _LIVE_STATE if (held := seen.server.state.get(kind)) is not None]
    return sum(known) if known else None


def _known(seen: Sequence[Observation], number: Callable[[Observation], float | None]) -> Quantiles:
    return quantiles(value for one in seen if (value := number(one)) is not None)
