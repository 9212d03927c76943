"""Storing: calls of the store of experiments on a thread of its own."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, ParamSpec, TypeVar

from service.core.errors import Overloaded
from service.core.experiments.ports import ExperimentStore

MOST_WAITING: Final = 64
_RETRY_S: Final = 1.0

P = ParamSpec("P")
T = TypeVar("T")


class Storing:
    """The store, and the thread that waits for it."""

    def __init__(self, store: ExperimentStore) -> None:
        self.store = store
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="experiments")
        self._waiting = 0

    async def call(self, method: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a method of the store. Raises what it raises."""
        # A call that has begun is finished even if the caller is cancelled: it may be a write.
        return await asyncio.wrap_future(self._thread.submit(method, *args, **kwargs))

    async def ask(self, method: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call it for a client. Raises Overloaded while too many others wait."""
        if self._waiting >= MOST_WAITING:
            raise Overloaded(
                f"{MOST_WAITING} queries for experiments wait already; try again later.",
                retry_after_s=_RETRY_S,
            )
        self._waiting += 1
        try:
            return await self.call(method, *args, **kwargs)
        finally:
            self._waiting -= 1

    def close(self) -> None:
        """Finish what was begun and end the thread."""
        self._thread.shutdown(wait=True)
