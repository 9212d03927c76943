"""A load test's plan: what is sent to which models, how fast, and what counts as valid."""

from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from loadtest.errors import LoadTestError

_Count = Annotated[int, Meta(ge=1, le=1_000_000)]
_Positive = Annotated[float, Meta(gt=0)]


class Arrivals(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When requests are sent: never in answer to an answer (open loop)."""

    process: Literal["poisson", "constant"] = "poisson"
    """`poisson`: exponential gaps of mean 1/rate; `constant`: equal gaps."""
    rate_per_s: _Positive
    """Requests per second, to the model whose turn it is."""


class Sampling(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Sampling parameters, the same for every model."""

    max_tokens: _Count = 64
    """Longest answer, in tokens."""
    temperature: Annotated[float, Meta(ge=0, le=2)] = 0.0
    """0 is greedy. Otherwise each prompt has its own seed, the same for every model."""
    ignore_eos: bool = False
    """Answer with exactly `max_tokens` tokens: compares engines, not what users see."""


class Slo(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Service-level objectives of one request; goodput counts the requests that meet all."""

    ttft_ms: _Positive | None = None
    """Longest time to first token, from the planned moment."""
    tpot_ms: _Positive | None = None
    """Longest time per output token."""
    e2e_ms: _Positive | None = None
    """Longest time to the last token, from the planned moment."""

    def __bool__(self) -> bool:
        return any(getattr(self, name) is not None for name in self.__struct_fields__)


class Validity(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Bounds beyond which a run is invalid: its numbers describe the client, not the service."""

    max_send_lag_p95_ms: _Positive = 25.0
    """p95 of dispatched − planned: the client could not keep the schedule."""
    max_loop_lag_p95_ms: _Positive = 25.0
    """p95 of how late a periodic timer of the measuring process fired: stamps were late."""
    max_ttft_difference_ms: _Positive = 10.0
    """Median distance of client and server TTFT, by model; the client counts from the sending."""
    max_tpot_difference_percent: _Positive = 5.0
    """Median distance of client and server TPOT, of each model, in percent of the server's."""
    least_tpot_difference_ms: Annotated[float, Meta(ge=0)] = 0.2
    """A smaller median distance of TPOT is never invalid, whatever its percentage."""
    exclusive: bool = True
    """The service serves nobody else meanwhile: a record of anybody else is a disagreement."""


class Plan(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A load test. Each model gets the same prompts at the same offsets, block by block."""

    description: str = ""
    """Title of the schedule."""
    models: Annotated[tuple[str, ...], Meta(min_length=1)]
    """Names as `/v1/models` lists them; each once."""
    prompts: str = "short"
    """A set that ships with the load test, or a JSONL file relative to the plan."""
    requests_per_model: _Count
    """Measured requests to each model."""
    block_requests: _Count = 8
    """Requests to one model in a row; then the next model gets the same."""
    warmup_requests: Annotated[int, Meta(ge=0)] = 2
    """Requests to each model before the test, one by one, left out of every number."""
    timeout_s: _Positive = 120.0
    """A request without a whole answer after this time is given up, in seconds."""
    seed: int = 1
    """Of arrivals, order of models and order of prompts."""
    arrivals: Arrivals
    sampling: Sampling = Sampling()
    slo: Slo = Slo()
    validity: Validity = Validity()


def load_plan(path: Path) -> Plan:
    """Decode the plan in a file. Raises LoadTestError that names file and key."""
    try:
        plan = msgspec.toml.decode(path.read_bytes(), type=Plan)
    except OSError as error:
        raise LoadTestError(f"{path}: cannot be read ({error.strerror})") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise LoadTestError(f"{path}: {error}") from error
    twice = {model for model in plan.models if plan.models.count(model) > 1}
    if twice:
        raise LoadTestError(f"{path}: models names {min(twice)!r} twice")
    return plan
