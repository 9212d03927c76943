"""Observation: what one finished request teaches about its model's costs."""

from msgspec import Struct

from service.core.events import StateBytes
from service.core.metrics import RequestMetrics
from service.core.record import RequestRecord

#: The kinds of state that a request fills; what its slot reserves beyond is not its own cost.
LIVE = ("attention_kv_bytes", "window_kv_bytes", "ssm_state_bytes", "conv_state_bytes")


class Observation(Struct, frozen=True, kw_only=True):
    """Lengths, load and costs of one request; None where unknown."""

    prompt_tokens: int
    computed_tokens: int
    """Prompt tokens that were not reused."""
    answer_tokens: int
    others: int
    """Largest number of other requests in its steps."""
    prompt_bytes: int | None
    wait_ms: float | None
    prefill_ms: float | None
    tpot_ms: float | None
    state_bytes: int | None
    energy_uj: int | None

    @classmethod
    def of(cls, record: RequestRecord, metrics: RequestMetrics) -> "Observation | None":
        """Read a record; None for one that failed, waited for a load, or has no lengths."""
        known = record.prompt_tokens is not None and record.completion_tokens
        if record.status != "ok" or record.cold or not known:
            return None
        assert record.prompt_tokens is not None
        assert record.completion_tokens is not None
        return cls(
            prompt_tokens=record.prompt_tokens,
            computed_tokens=max(0, record.prompt_tokens - (record.cached_tokens or 0)),
            answer_tokens=record.completion_tokens,
            others=record.co_scheduled or 0,
            prompt_bytes=_prompt_bytes(record),
            wait_ms=_sum(metrics.preprocess_ms, metrics.queue_ms),
            prefill_ms=metrics.prefill_ms,
            tpot_ms=metrics.tpot_ms,
            state_bytes=_live_bytes(record.state),
            energy_uj=record.energy.energy_uj,
        )


def _sum(first: float | None, second: float | None) -> float | None:
    return None if first is None or second is None else first + second


def _live_bytes(state: StateBytes) -> int | None:
    kinds: list[int | None] = [getattr(state, name) for name in LIVE]
    return None if None in kinds else sum(each for each in kinds if each is not None)


def _prompt_bytes(record: RequestRecord) -> int | None:
    """Bytes of the prompt's text, which only decisions of routes note."""
    facts = (record.route_inputs or {}).get("facts")
    found = facts.get("prompt_bytes") if isinstance(facts, dict) else None
    return found if isinstance(found, int) else None
