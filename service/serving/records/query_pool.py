"""Query pool: threads of their own for reads of the record store, bounded and cancellable."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from service.core.errors import Overloaded

T = TypeVar("T")
Cancelled = Callable[[], bool]

_RETRY_S = 1.0


class QueryPool:
    """Runs blocking queries beside the event loop; a query is cancelled with its caller."""

    def __init__(self, name: str, *, threads: int, max_waiting: int) -> None:
        """Run *threads* queries at once and let *max_waiting* more wait."""
        self._name = name
        self._limit = threads + max_waiting
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._lock = threading.Lock()
        self._admitted: set[threading.Event] = set()

    def __repr__(self) -> str:
        return f"<QueryPool {self._name} [{len(self._admitted)} of {self._limit}]>"

    @property
    def admitted(self) -> int:
        """Queries that run or wait."""
        return len(self._admitted)

    async def run(self, query: Callable[[Cancelled], T]) -> T:
        """Run a query in a thread and return its result.

        The query gets a function that says whether it is cancelled. Raises Overloaded beyond the
        bound.
        """
        cancelled = threading.Event()
        with self._lock:
            if len(self._admitted) >= self._limit:
                raise Overloaded(
                    f"{self._limit} queries for {self._name} run or wait already; try again later.",
                    retry_after_s=_RETRY_S,
                )
            self._admitted.add(cancelled)

        def leave(_: Future[T]) -> None:
            with self._lock:
                self._admitted.discard(cancelled)

        running = self._threads.submit(query, cancelled.is_set)
        # Called when the thread has ended, however early the caller left.
        running.add_done_callback(leave)
        try:
            return await asyncio.wrap_future(running)
        finally:
            cancelled.set()

    def close(self) -> None:
        """Cancel all queries and end the threads."""
        with self._lock:
            for cancelled in self._admitted:
                cancelled.set()
        self._threads.shutdown(wait=True, cancel_futures=True)
