"""Token counts, metrics and timings of a finished request, in the formats that clients read."""

from msgspec import UNSET

from service.api.openai.schema import AnswerMetrics, CachedTokens, Timings, Usage
from service.core.metrics import RequestMetrics
from service.core.record import RequestRecord


def usage(record: RequestRecord) -> Usage | None:
    """Token counts of a finished record; None where another server did not report them."""
    prompt_tokens, completion_tokens = record.prompt_tokens, record.completion_tokens
    if prompt_tokens is None or completion_tokens is None:
        return None
    cached = record.cached_tokens
    return Usage(
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        total_tokens=prompt_tokens + completion_tokens,
        prompt_tokens_details=None if cached is None else CachedTokens(cached),
    )


def metrics(record: RequestRecord, times: RequestMetrics) -> AnswerMetrics:
    """Times, tokens and bytes of a finished record."""
    return AnswerMetrics(
        **{name: getattr(times, name) for name in RequestMetrics.__struct_fields__},
        request_id=record.request_id,
        prompt_tokens=record.prompt_tokens,
        completion_tokens=record.completion_tokens,
        cached_tokens=record.cached_tokens,
        state=record.state,
        work=record.work,
        energy=record.energy,
        cold=record.cold,
        verified=record.verified,
    )


def timings(record: RequestRecord, times: RequestMetrics) -> Timings:
    """Report times as llama.cpp's server does; its rates count the first token as prefill."""
    cached = record.cached_tokens
    computed = None if record.prompt_tokens is None else record.prompt_tokens - (cached or 0)
    prefill_ms = times.prefill_ms
    return Timings(
        prompt_n=computed,
        prompt_ms=prefill_ms,
        prompt_per_token_ms=prefill_ms / computed if prefill_ms and computed else None,
        prompt_per_second=computed * 1e3 / prefill_ms if prefill_ms and computed else None,
        predicted_n=record.completion_tokens,
        predicted_ms=times.decode_ms,
        predicted_per_token_ms=times.tpot_ms,
        predicted_per_second=times.tokens_per_s,
        cache_n=UNSET if cached is None else cached,
    )
