"""MemoryReport: the budget and each model's share of it, as frozen values."""

from collections.abc import Iterable, Sequence

from msgspec import Struct

from model_registry.spec import EngineKind
from service.core.events import ModelMemory
from service.core.model_status import LoadState, ModelStatus
from service.core.runtime import DeviceUse, PrefixCacheUse
from service.serving.memory.device_memory import DeviceMemory


class ModelUse(Struct, frozen=True, kw_only=True):
    """Memory of a servable model; None where unknown."""

    id: str
    status: LoadState
    engine: EngineKind
    pinned: bool
    weights_bytes: int | None
    """As reported by the engine, like slots, snapshots and workspace."""
    slots_bytes: int | None
    """Everything reserved for requests' state now, keys and values of running ones included."""
    slots_total: int | None
    slots_used: int | None
    snapshots_bytes: int | None
    workspace_bytes: int | None
    predicted_bytes: int | None
    """Estimate at rest, by the registry's formulas; None before the first load."""
    measured_bytes: int | None
    """Held at rest at the last load with these weights and settings."""
    requests: int
    """Waiting or running."""
    requests_state_bytes: int | None
    """Reserved for the state of running requests, at their longest."""
    last_used_s: float | None
    """Seconds since its last request began or ended; None if it had none."""
    load_ns: int | None
    """Duration of the last load."""


class ProcessUse(Struct, frozen=True, kw_only=True):
    """A process as the kernel counts it, Python and libraries included."""

    name: str
    pid: int | None
    rss_bytes: int | None
    pss_bytes: int | None


class MemoryReport(Struct, frozen=True, kw_only=True):
    """The memory budget and its use.

    The budget is for models and for requests' state. The processes themselves (Python, torch: some
    500 MB for an engine) are no part of it.
    """

    budget_bytes: int
    used_bytes: int
    """Reserved: by models that are loaded or loading, and for running requests at their longest."""
    free_bytes: int
    models: tuple[ModelUse, ...]
    processes: tuple[ProcessUse, ...]
    device: DeviceUse
    prefix_cache: PrefixCacheUse | None
    """States of earlier prompts; null before the torch host has reported."""


def memory_report(
    memory: DeviceMemory,
    statuses: Iterable[ModelStatus],
    processes: Sequence[ProcessUse],
    device: DeviceUse,
    prefix_cache: PrefixCacheUse | None = None,
) -> MemoryReport:
    """Build the report from one moment's statuses."""
    return MemoryReport(
        budget_bytes=memory.budget_bytes,
        used_bytes=memory.used_bytes,
        free_bytes=max(0, memory.budget_bytes - memory.used_bytes),
        models=tuple(model_use(status) for status in statuses if status.servable),
        processes=tuple(processes),
        device=device,
        prefix_cache=prefix_cache,
    )


def model_use(status: ModelStatus) -> ModelUse:
    """Build one model's row."""
    held = status.memory or ModelMemory()
    return ModelUse(
        id=status.id,
        status=status.state,
        engine=status.engine,
        pinned=status.pinned,
        weights_bytes=held.weights_bytes,
        slots_bytes=held.slots_bytes,
        slots_total=held.slots_total,
        slots_used=held.slots_used,
        snapshots_bytes=held.snapshots_bytes,
        workspace_bytes=held.workspace_bytes,
        predicted_bytes=status.predicted_bytes,
        measured_bytes=status.measured_bytes,
        requests=status.requests,
        requests_state_bytes=status.requests_state_bytes,
        last_used_s=status.last_used_s,
        load_ns=status.load_ns,
    )
