"""Metrics derived from a record's raw stamps and counts, each by one formula.

`preprocess + queue + prefill + decode == e2e` exactly, in nanoseconds.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

from msgspec import Struct

from service.core.record import RequestRecord


class RequestMetrics(Struct, frozen=True, kw_only=True):
    """Times and rates of one request; None where an input is unknown."""

    ttft_ms: float | None
    """first − accepted."""
    tpot_ms: float | None
    """decode / (n − 1), None if n < 2 (as vLLM, inference-perf and MLPerf define TPOT)."""
    ntpot_ms: float | None
    """(last − accepted) / n (GuideLLM's TPOT)."""
    preprocess_ms: float | None
    """queued − accepted."""
    queue_ms: float | None
    """scheduled − queued."""
    prefill_ms: float | None
    """first − scheduled."""
    decode_ms: float | None
    """last − first."""
    e2e_ms: float | None
    """last − accepted."""
    load_ms: float | None
    """Time spent waiting for the model to load; part of queue."""
    tokens_per_s: float | None
    """(n − 1) / decode."""
    bytes_per_s: float | None
    """Mean bytes of a token × tokens_per_s = bytes × (n − 1) / n / decode: comparable between
    tokenizers. The decode time has n − 1 intervals, so one token's share of the bytes is left out,
    as the first token is of tokens_per_s."""


def elapsed_ns(end_ns: int | None, start_ns: int | None) -> int | None:
    """`end − start`, None if either is unknown."""
    return None if end_ns is None or start_ns is None else end_ns - start_ns


def milliseconds(duration_ns: float | None) -> float | None:
    """Nanoseconds as milliseconds, None stays None."""
    return None if duration_ns is None else duration_ns / 1e6


class Formula(Struct, frozen=True):
    """A metric as arithmetic on fields of a record; unknown where an input is unknown.

    Functions use operators alone, so that they take integers and arrays of integers alike: what is
    derived from one record and what is summed up over a million have the same formula.
    """

    inputs: tuple[str, ...]
    compute: Callable[..., Any]
    defined: Callable[..., Any] | None = None
    """Where it has a value, given the inputs; None: everywhere."""


def _span(end: str, start: str) -> Formula:
    return Formula((end, start), lambda end_ns, start_ns: (end_ns - start_ns) / 1e6)


def _paced(last_ns: Any, first_ns: Any, tokens: Any, *_: Any) -> Any:  # noqa: ANN401 (int or array)
    return (tokens > 1) & (last_ns > first_ns)


#: The one formula of each field of RequestMetrics.
FORMULAS: dict[str, Formula] = {
    "ttft_ms": _span("first_ns", "accepted_ns"),
    "tpot_ms": Formula(
        ("last_ns", "first_ns", "completion_tokens"),
        lambda last_ns, first_ns, tokens: (last_ns - first_ns) / (tokens - 1) / 1e6,
        _paced,
    ),
    "ntpot_ms": Formula(
        ("last_ns", "accepted_ns", "completion_tokens"),
        lambda last_ns, accepted_ns, tokens: (last_ns - accepted_ns) / tokens / 1e6,
        lambda _, __, tokens: tokens > 0,
    ),
    "preprocess_ms": _span("queued_ns", "accepted_ns"),
    "queue_ms": _span("scheduled_ns", "queued_ns"),
    "prefill_ms": _span("first_ns", "scheduled_ns"),
    "decode_ms": _span("last_ns", "first_ns"),
    "e2e_ms": _span("last_ns", "accepted_ns"),
    "load_ms": Formula(("load_ns",), lambda load_ns: load_ns / 1e6),
    "tokens_per_s": Formula(
        ("last_ns", "first_ns", "completion_tokens"),
        lambda last_ns, first_ns, tokens: (tokens - 1) * 1e9 / (last_ns - first_ns),
        _paced,
    ),
    "bytes_per_s": Formula(
        ("last_ns", "first_ns", "completion_tokens", "completion_bytes"),
        lambda last_ns, first_ns, tokens, text_bytes: (
            text_bytes * (tokens - 1) / tokens * 1e9 / (last_ns - first_ns)
        ),
        _paced,
    ),
}


def derive(record: RequestRecord) -> RequestMetrics:
    """All metrics of one record."""
    return RequestMetrics(**{name: _value(record, one) for name, one in FORMULAS.items()})


def _value(record: RequestRecord, formula: Formula) -> float | None:
    inputs = [getattr(record, name) for name in formula.inputs]
    if None in inputs or not (formula.defined is None or formula.defined(*inputs)):
        return None
    value: float = formula.compute(*inputs)
    return value


#: Below these counts the confidence interval of the percentile reaches the largest value seen.
P95_FROM = 72
P99_FROM = 368


class Quantiles(Struct, frozen=True, kw_only=True):
    """Nearest-rank percentiles; None where there are too few values."""

    count: int
    p50: float | None
    p95: float | None
    """Only from 72 values."""
    p99: float | None
    """Only from 368 values."""
    max: float | None


def quantiles(values: Iterable[float]) -> Quantiles:
    """Percentiles of *values*, in their unit."""
    ordered = sorted(values)
    return quantiles_at(len(ordered), ordered.__getitem__)


def quantiles_at(count: int, at: Callable[[int], float]) -> Quantiles:
    """Percentiles of *count* values, of which *at* gives the n-th smallest, from 0."""
    return Quantiles(
        count=count,
        p50=at(rank(count, 0.50)) if count else None,
        p95=at(rank(count, 0.95)) if count >= P95_FROM else None,
        p99=at(rank(count, 0.99)) if count >= P99_FROM else None,
        max=at(count - 1) if count else None,
    )


def percentile(values: Iterable[float], share: float) -> float | None:
    """Nearest-rank percentile of *values* for *share* in (0, 1]; None for no values."""
    ordered = sorted(values)
    return ordered[rank(len(ordered), share)] if ordered else None


def rank(count: int, share: float) -> int:
    """Index from 0 of the nearest-rank percentile among *count* ordered values."""
    return max(0, math.ceil(share * count) - 1)
