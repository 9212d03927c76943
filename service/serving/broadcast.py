"""Broadcast: passes values to subscribers; a slow one holds up nobody."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Generic, TypeVar

from service.core.errors import Overloaded, TriptychError

#: Unread values after which a subscriber is dropped.
MAX_UNREAD = 256

T = TypeVar("T")


class Broadcast(Generic[T]):
    """Values for everyone who subscribes."""

    def __init__(self) -> None:
        self._subscribers: set[_Subscriber[T]] = set()

    @property
    def heard(self) -> bool:
        """True if there is any subscriber."""
        return bool(self._subscribers)

    def close(self, reason: TriptychError) -> None:
        """End every subscription: its reader gets *reason*."""
        for subscriber in self._subscribers:
            subscriber.end(reason)

    def publish(self, value: T) -> None:
        """Pass a value to every subscriber; one that is too far behind is dropped."""
        for subscriber in self._subscribers:
            subscriber.put(value)

    async def subscribe(self, snapshot: Callable[[], Sequence[T]]) -> AsyncGenerator[T]:
        """Yield the snapshot, then every value. Raises Overloaded for a reader too slow."""
        subscriber = _Subscriber[T]()
        self._subscribers.add(subscriber)
        try:
            for value in snapshot():
                yield value
            while True:
                yield await subscriber.get()
        finally:
            self._subscribers.discard(subscriber)


class _Subscriber(Generic[T]):
    def __init__(self) -> None:
        self._values: deque[T] = deque()
        self._arrived = asyncio.Event()
        self._lost = False
        self._end: TriptychError | None = None

    def end(self, reason: TriptychError) -> None:
        self._end = reason
        self._arrived.set()

    def put(self, value: T) -> None:
        self._lost = self._lost or len(self._values) >= MAX_UNREAD
        if not self._lost:
            self._values.append(value)
        self._arrived.set()

    async def get(self) -> T:
        while not self._values:
            if self._end is not None:
                raise self._end
            if self._lost:
                raise Overloaded("the events were not read in time; subscribe again")
            self._arrived.clear()
            await self._arrived.wait()
        return self._values.popleft()
