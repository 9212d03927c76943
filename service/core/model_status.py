"""What the pool knows about each model, as frozen values: cards, routes and probes read these."""

from typing import Literal

from msgspec import Struct

from model_registry.spec import EngineKind, ModelSpec
from service.core.events import ModelMemory
from service.core.ports import LoadProgress

LoadState = Literal[
    "unavailable", "unloaded", "loading", "ready", "unverified", "unloading", "failed"
]


class ArchitectureSummary(Struct, frozen=True, kw_only=True):
    """What a model is made of."""

    model_type: str
    layers: dict[str, int]
    """How many layers of each kind."""


class ModelStatus(Struct, frozen=True, kw_only=True):
    """One addressable model at one moment."""

    id: str
    """`model` or `model:variant`."""
    spec: ModelSpec
    variant: str | None
    state: LoadState
    """`unavailable`: its files are not on this machine; `unverified`: served, but the conformance
    probe found fault with it."""
    requests: int
    """How many requests wait or run."""
    requests_limit: int
    architecture: ArchitectureSummary | None = None
    verified: bool | None = None
    """None until the model was probed."""
    verification: str | None = None
    """What the conformance probe found."""
    error: str | None = None
    """Why it is unavailable, failed to load, or cannot answer now."""
    retry_after_s: float | None = None
    """After a failed load: how long routes leave the model alone."""
    progress: LoadProgress | None = None
    memory: ModelMemory | None = None
    load_ns: int | None = None
    """How long the last load took."""
    loads: int = 0
    """How often it was loaded since the start."""
    evictions: int = 0
    """How often it was unloaded to make room for others."""
    pinned: bool = False
    """Never unloaded to make room for others, nor for resting."""
    predicted_bytes: int | None = None
    """What it holds at rest by the registry's formulas."""
    measured_bytes: int | None = None
    """What it held at rest when it was loaded last."""
    requests_state_bytes: int | None = None
    """Booked for the state of running requests, at their longest."""
    last_used_s: float | None = None
    """Seconds since its last request began or ended; None if it had none."""

    @property
    def engine(self) -> EngineKind:
        """What serves it."""
        chosen = self.spec.variants[self.variant].engine if self.variant else None
        return chosen or self.spec.engine

    @property
    def servable(self) -> bool:
        """Whether a request for this model can be tried at all."""
        return self.state != "unavailable"

    @property
    def loaded(self) -> bool:
        """Whether it answers without loading first."""
        return self.state in ("ready", "unverified") and self.error is None
