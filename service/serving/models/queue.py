"""Queue: admission to one model, and Retry-After when it is full."""

import asyncio
import random
from collections.abc import Callable

from service.core.errors import Overloaded

#: Weight of the newest service time in its moving average.
NEWEST_SHARE = 0.2


class Queue:
    """Counts the requests that wait for one model or run on it, and their service time."""

    def __init__(
        self,
        name: str,
        *,
        limit: int,
        released: asyncio.Event,
        random: Callable[[], float] = random.random,
    ) -> None:
        """Empty; *released* is set whenever a place becomes free."""
        self.requests = 0
        self.limit = limit
        self._name = name
        self._released = released
        self._random = random
        self._service_s: float | None = None

    def enter(self, slots: int | None) -> None:
        """Take a place. Raises Overloaded with `retry_after_s`."""
        if self.requests >= self.limit:
            raise Overloaded(
                f"{self._name} has {self.requests} requests waiting or running; try again later",
                retry_after_s=self._drained_in_s(slots) * (1 + self._random() / 4),
            )
        self.requests += 1

    def leave(self, service_s: float | None) -> None:
        """Give the place back; *service_s*: the engine's time for a whole answer, else None."""
        self.requests -= 1
        self._released.set()
        if service_s is not None:
            before_s = service_s if self._service_s is None else self._service_s
            self._service_s = before_s + NEWEST_SHARE * (service_s - before_s)

    def _drained_in_s(self, slots: int | None) -> float:
        """Expected time to empty the queue: requests × mean service time / concurrency."""
        if self._service_s is None:
            return 1.0
        return max(1.0, self.requests * self._service_s / max(1, min(slots or 1, self.requests)))
