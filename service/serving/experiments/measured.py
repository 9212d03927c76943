"""Measured trials: what the record of a request says, as the values of its trial."""

import hashlib

import msgspec

from service.core.compare.comparison import live_state_bytes
from service.core.experiments.trial import Trial
from service.core.metrics import derive, milliseconds
from service.core.record import RequestRecord
from service.serving.gate import Isolation

_BESIDE = ("beside_requests", "beside_background")


def measured(
    trial: Trial, record: RequestRecord, *, text: str, isolation: Isolation | None
) -> Trial:
    """The trial as done. Without *isolation* it ran beside whatever else there was."""
    return msgspec.structs.replace(
        trial,
        state="done",
        request_id=record.request_id,
        values=values_of(record),
        prompt_tokens=record.prompt_tokens,
        completion_tokens=record.completion_tokens,
        text_sha256=hashlib.sha256(text.encode()).hexdigest(),
        cold=record.cold,
        disturbances=disturbances_of(isolation),
        kernel_path=record.build.kernel_path if record.build else None,
        build_sha256=build_sha256(record),
    )


def values_of(record: RequestRecord) -> dict[str, float | None]:
    """Numbers of a request, by the names of its metrics; None where unknown."""
    times = msgspec.structs.asdict(derive(record))
    state = msgspec.structs.asdict(record.state)
    joules = record.energy.energy_uj
    return {
        **times,
        "memory_bytes": live_state_bytes(record.state),
        **state,
        "energy_j": None if joules is None else joules / 1e6,
        "completion_bytes": record.completion_bytes,
        "cached_tokens": record.cached_tokens,
        "matched_tokens": record.prefix.matched_tokens,
        "restore_ms": milliseconds(record.prefix.restore_ns),
        "saved_prefill_ms": milliseconds(record.prefix.saved_prefill_ns),
        "prefill_flops": record.work.prefill_flops,
        "decode_flops": record.work.decode_flops,
    }


def disturbances_of(isolation: Isolation | None) -> tuple[str, ...]:
    """What ran beside a trial."""
    if isolation is None:
        return ("not_isolated",)
    return tuple(name for name in _BESIDE if getattr(isolation, name))


def build_sha256(record: RequestRecord) -> str | None:
    """Hash of model, variant and build; None where the build is unknown."""
    if record.build is None:
        return None
    identity = msgspec.json.encode((record.model, record.variant, record.build))
    return hashlib.sha256(identity).hexdigest()
