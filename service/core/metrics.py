"""Every number that people read, derived from raw stamps by one formula each.

`preprocess + queue + prefill + decode == e2e` exactly, in nanoseconds.
"""

import math
from collections.abc import Iterable, Sequence

from msgspec import Struct

from service.core.record import RequestRecord


class RequestMetrics(Struct, frozen=True, kw_only=True):
    """Derived times of one request in milliseconds; None where a stamp is missing."""

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
    """Time spent waiting for the model to load; part of preprocess."""
    tokens_per_s: float | None
    """(n − 1) / decode."""
    bytes_per_s: float | None
    """UTF-8 bytes of the text / decode: comparable between tokenizers."""


def elapsed_ns(end_ns: int | None, start_ns: int | None) -> int | None:
    """`end − start`, None if either is unknown."""
    return None if end_ns is None or start_ns is None else end_ns - start_ns


def milliseconds(duration_ns: float | None) -> float | None:
    """Nanoseconds as milliseconds, None stays None."""
    return None if duration_ns is None else duration_ns / 1e6


def derive(record: RequestRecord) -> RequestMetrics:
    """All derived times of one record."""
    decode_ns = elapsed_ns(record.last_ns, record.first_ns)
    e2e_ns = elapsed_ns(record.last_ns, record.accepted_ns)
    tokens = record.completion_tokens
    paced = decode_ns is not None and tokens is not None and tokens > 1 and decode_ns > 0
    return RequestMetrics(
        ttft_ms=milliseconds(elapsed_ns(record.first_ns, record.accepted_ns)),
        tpot_ms=milliseconds(decode_ns / (tokens - 1)) if paced and tokens and decode_ns else None,
        ntpot_ms=milliseconds(e2e_ns / tokens) if e2e_ns is not None and tokens else None,
        preprocess_ms=milliseconds(elapsed_ns(record.queued_ns, record.accepted_ns)),
        queue_ms=milliseconds(elapsed_ns(record.scheduled_ns, record.queued_ns)),
        prefill_ms=milliseconds(elapsed_ns(record.first_ns, record.scheduled_ns)),
        decode_ms=milliseconds(decode_ns),
        e2e_ms=milliseconds(e2e_ns),
        load_ms=milliseconds(record.load_ns),
        tokens_per_s=(tokens - 1) * 1e9 / decode_ns if paced and tokens and decode_ns else None,
        bytes_per_s=(
            record.completion_bytes * 1e9 / decode_ns
            if paced and decode_ns and record.completion_bytes is not None
            else None
        ),
    )


#: Below these counts the confidence interval of the percentile reaches the largest value seen.
P95_FROM = 72
P99_FROM = 368


class Quantiles(Struct, frozen=True, kw_only=True):
    """Nearest-rank percentiles of some values; None where there are too few to tell."""

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
    count = len(ordered)
    return Quantiles(
        count=count,
        p50=_nearest_rank(ordered, 0.50),
        p95=_nearest_rank(ordered, 0.95) if count >= P95_FROM else None,
        p99=_nearest_rank(ordered, 0.99) if count >= P99_FROM else None,
        max=ordered[-1] if ordered else None,
    )


def percentile(values: Iterable[float], share: float) -> float | None:
    """Nearest-rank percentile of *values* for *share* in (0, 1]; None for no values."""
    return _nearest_rank(sorted(values), share)


def _nearest_rank(ordered: Sequence[float], share: float) -> float | None:
    if not ordered:
        return None
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
