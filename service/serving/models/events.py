"""Events of the models for subscribers: changes of state, load progress, pins."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from typing import Literal

from msgspec import Struct

from service.core.errors import Overloaded, TriptychError
from service.core.model_status import LoadState
from service.core.ports import LoadProgress

ChangeKind = Literal["snapshot", "state", "progress", "pin"]

#: Unread events after which a subscriber is dropped.
MAX_UNREAD = 256


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


class ModelEvents:
    """Broadcasts changes; a slow subscriber holds up neither the others nor the models."""

    def __init__(self, *, wall_ns: Callable[[], int] = time.time_ns) -> None:
        self.wall_ns = wall_ns
        self._subscribers: set[_Subscriber] = set()

    @property
    def heard(self) -> bool:
        """True if there is any subscriber."""
        return bool(self._subscribers)

    def close(self, reason: TriptychError) -> None:
        """End every subscription: its reader gets *reason*."""
        for subscriber in self._subscribers:
            subscriber.end(reason)

    def publish(self, change: ModelChange) -> None:
        """Pass a change to every subscriber; one that is too far behind is dropped."""
        for subscriber in self._subscribers:
            subscriber.put(change)

    async def subscribe(
        self, snapshot: Callable[[], list[ModelChange]]
    ) -> AsyncGenerator[ModelChange]:
        """Yield the snapshot, then every change. Raises Overloaded for a reader too slow."""
        subscriber = _Subscriber()
        self._subscribers.add(subscriber)
        try:
            for change in snapshot():
                yield change
            while True:
                yield await subscriber.get()
        finally:
            self._subscribers.discard(subscriber)


class _Subscriber:
    def __init__(self) -> None:
        self._changes: deque[ModelChange] = deque()
        self._arrived = asyncio.Event()
        self._lost = False
        self._end: TriptychError | None = None

    def end(self, reason: TriptychError) -> None:
        self._end = reason
        self._arrived.set()

    def put(self, change: ModelChange) -> None:
        self._lost = self._lost or len(self._changes) >= MAX_UNREAD
        if not self._lost:
            self._changes.append(change)
        self._arrived.set()

    async def get(self) -> ModelChange:
        while not self._changes:
            if self._end is not None:
                raise self._end
            if self._lost:
                raise Overloaded("the events were not read in time; subscribe again")
            self._arrived.clear()
            await self._arrived.wait()
        return self._changes.popleft()
