"""Differences between the arms of a comparison: pure functions of their records."""

from collections.abc import Sequence

from msgspec import Struct

from service.core.events import StateBytes
from service.core.metrics import derive
from service.core.record import RequestRecord


class Difference(Struct, frozen=True, kw_only=True):
    """A number of an arm relative to the same number of the first arm."""

    absolute: float | None
    """arm − first, in the number's own unit; None if either is unknown."""
    ratio: float | None
    """arm / first; None if either is unknown or the first is 0."""


class ArmDifference(Struct, frozen=True, kw_only=True):
    """Differences of an arm to the first arm."""

    ttft_ms: Difference
    tpot_ms: Difference
    prefill_ms: Difference
    decode_ms: Difference
    e2e_ms: Difference
    tokens_per_s: Difference
    bytes_per_s: Difference
    prompt_tokens: Difference
    completion_tokens: Difference
    completion_bytes: Difference
    state_bytes: Difference
    """Of `live_state_bytes`."""
    reserved_bytes: Difference
    prefill_flops: Difference
    decode_flops: Difference
    weight_bytes_read: Difference
    state_bytes_read: Difference
    state_bytes_written: Difference
    energy_uj: Difference
    """Null unless both were told by the same kind of counter."""


def live_state_bytes(state: StateBytes) -> int | None:
    """Sum of keys, values, recurrent and convolution state; None if any of them is unknown."""
    parts = (
        state.attention_kv_bytes,
        state.window_kv_bytes,
        state.ssm_state_bytes,
        state.conv_state_bytes,
    )
    known = [part for part in parts if part is not None]
    return sum(known) if len(known) == len(parts) else None


def difference(value: float | None, first: float | None) -> Difference:
    """Absolute difference and ratio of two numbers, either of which may be unknown."""
    if value is None or first is None:
        return Difference(absolute=None, ratio=None)
    return Difference(absolute=value - first, ratio=value / first if first else None)


def compare(arm: RequestRecord, first: RequestRecord) -> ArmDifference:
    """All differences of one arm to the first."""
    ours, theirs = _numbers(arm), _numbers(first)
    if arm.energy.energy_source != first.energy.energy_source:
        theirs["energy_uj"] = None
    return ArmDifference(**{name: difference(ours[name], theirs[name]) for name in ours})


def _numbers(record: RequestRecord) -> dict[str, float | None]:
    times = derive(record)
    return {
        "ttft_ms": times.ttft_ms,
        "tpot_ms": times.tpot_ms,
        "prefill_ms": times.prefill_ms,
        "decode_ms": times.decode_ms,
        "e2e_ms": times.e2e_ms,
        "tokens_per_s": times.tokens_per_s,
        "bytes_per_s": times.bytes_per_s,
        "prompt_tokens": record.prompt_tokens,
        "completion_tokens": record.completion_tokens,
        "completion_bytes": record.completion_bytes,
        "state_bytes": live_state_bytes(record.state),
        "reserved_bytes": record.state.reserved_bytes,
        "prefill_flops": record.work.prefill_flops,
        "decode_flops": record.work.decode_flops,
        "weight_bytes_read": record.work.weight_bytes_read,
        "state_bytes_read": record.work.state_bytes_read,
        "state_bytes_written": record.work.state_bytes_written,
        "energy_uj": record.energy.energy_uj,
    }


def caveats(
    records: Sequence[RequestRecord | None], texts: Sequence[str], *, mode: str
) -> tuple[str, ...]:
    """Reasons to doubt a difference between these arms.

    A record is None for an arm that was not accepted.
    """
    answered = [record for record in records if record is not None and record.status == "ok"]
    kernels = {record.build.kernel_path for record in answered if record.build is not None}
    sources = {record.build.state_source for record in answered if record.build is not None}
    found = {
        "one pair of answers shows no distribution": True,
        "the arms ran at the same time and slowed each other down": mode == "concurrent",
        "an arm did not answer": len(answered) < len(records),
        "an arm waited for its model to load": any(record.cold for record in answered),
        "an arm's model is unverified": any(record.verified is False for record in answered),
        "the arms answered with different texts": len(set(texts)) > 1,
        "the arms ran on different kernels": len(kernels) > 1,
        "the energy of an arm is an estimate from power.watts": any(
            record.energy.energy_source == "estimate" for record in answered
        ),
        "the energy of an arm was shared with other requests": any(
            record.energy.energy_shared for record in answered
        ),
        "the state bytes of an arm were computed, not measured": "computed" in sources,
    }
    return tuple(caveat for caveat, holds in found.items() if holds)
