"""A plan: what is sent to which models, how fast. Decoded strictly from TOML."""

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
    rate_per_s: _Positive
    """Requests a second, to the one model whose turn it is."""


class Sampling(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How answers are generated, the same for every model."""

    max_tokens: _Count = 64
    temperature: Annotated[float, Meta(ge=0, le=2)] = 0.0
    """0 is greedy. Otherwise each prompt has its own seed, the same for every model."""
    ignore_eos: bool = False
    """Answer with exactly `max_tokens` tokens: compares engines, not what users see."""


class Plan(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One load test. Each model gets the same prompts at the same offsets, block by block."""

    description: str = ""
    models: Annotated[tuple[str, ...], Meta(min_length=1)]
    prompts: str = "short"
    """A set that ships with the load test, or a JSONL file relative to the plan."""
    requests_per_model: _Count
    block_requests: _Count = 8
    """Requests to one model in a row; then the next model gets the same."""
    warmup_requests: Annotated[int, Meta(ge=0)] = 2
    """Requests to each model before the test, one by one, left out of every number."""
    arrivals: Arrivals
    sampling: Sampling = Sampling()
    timeout_s: _Positive = 120.0
    """After this time without a whole answer a request is given up."""
    max_send_lag_p95_ms: _Positive = 25.0
    """A run whose requests left later than planned by more than this is invalid."""
    seed: int = 1


def load_plan(path: Path) -> Plan:
    """The plan in a file. Raises LoadTestError that names file and key."""
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
