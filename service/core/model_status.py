"""The status of each model in the pool, as frozen values."""

from typing import Literal

from msgspec import Struct

from model_registry.spec import EngineKind, ModelSpec
from service.core.events import ModelMemory
from service.core.ports import LoadProgress

LoadState = Literal[
    "unavailable", "unloaded", "loading", "ready", "unverified", "unloading", "failed"
]


class ArchitectureSummary(Struct, frozen=True, kw_only=True):
    """The layers of a model."""

    model_type: str
    layers: dict[str, int]
    """Layer counts by kind."""


class ModelStatus(Struct, frozen=True, kw_only=True):
    """Snapshot of the status of an addressable model."""

    id: str
    """`model` or `model:variant`."""
    spec: ModelSpec
    variant: str | None
    state: LoadState
    """`unavailable`: it cannot be served here, `error` says why; `unverified`: served, although it
    failed the conformance probe."""
    requests: int
    """Waiting or running."""
    requests_limit: int
    architecture: ArchitectureSummary | None = None
    verified: bool | None = None
    """Outcome of the conformance probe; None until the model was probed, and between a restart of
    its engine and the next probe."""
    verification: str | None = None
    """The probe's finding."""
    error: str | None = None
    """Why it is unavailable, failed to load, or cannot answer now."""
    down: bool = False
    """Loaded, but the process of its engine is gone or not back yet."""
    retry_after_s: float | None = None
    """After a failed load: how long routes avoid the model. While down: when it may be back; None
    if it does not come back by itself."""
    progress: LoadProgress | None = None
    memory: ModelMemory | None = None
    load_ns: int | None = None
    """Duration of the last load."""
    loads: int = 0
    """Loads since the service started."""
    evictions: int = 0
    """Times it was unloaded to make room for others."""
    pinned: bool = False
    """Never evicted, nor unloaded when idle."""
    predicted_bytes: int | None = None
    """Held at rest, by the registry's formulas."""
    measured_bytes: int | None = None
    """Held at rest at the last load."""
    requests_state_bytes: int | None = None
    """Reserved for the state of running requests, at their longest."""
    last_used_s: float | None = None
    """Seconds since its last request began or ended; None if it had none."""

    @property
    def engine(self) -> EngineKind:
        """The engine that serves it."""
        chosen = self.spec.variants[self.variant].engine if self.variant else None
        return chosen or self.spec.engine

    @property
    def servable(self) -> bool:
        """True if its files are on this machine and an engine supports them."""
        return self.state != "unavailable"

    @property
    def loaded(self) -> bool:
        """True if it can answer without being loaded first."""
        return self.state in ("ready", "unverified") and not self.down
