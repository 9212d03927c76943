"""Events of the models for subscribers: changes of state, load progress, pins."""

import time
from collections.abc import Callable
from typing import Literal

from msgspec import Struct

from service.core.model_status import LoadState
from service.core.ports import LoadProgress
from service.serving.broadcast import Broadcast

ChangeKind = Literal["snapshot", "state", "progress", "pin"]


class ModelChange(Struct, frozen=True, kw_only=True):
    """A model's state, and what has just changed."""

    event: ChangeKind
    """`snapshot`: the state when the stream began."""
    model: str
    state: LoadState
    pinned: bool
    at_ns: int
    """Wall clock."""
    reason: str | None = None
    """Why it is unloaded, cannot be loaded, or cannot answer."""
    progress: LoadProgress | None = None


class ModelEvents(Broadcast[ModelChange]):
    """Broadcasts changes; a slow subscriber holds up neither the others nor the models."""

    def __init__(self, *, wall_ns: Callable[[], int] = time.time_ns) -> None:
        super().__init__()
        self.wall_ns = wall_ns
