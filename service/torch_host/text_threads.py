"""TextThreads: tokenization in threads of its own, shared fairly between models and requests."""

import asyncio
import heapq
import itertools
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

LARGE_CHARACTERS: Final = 32 * 1024
"""Texts beyond this take tens of milliseconds, and only one of them is worked on at a time."""

DUE_CHARACTERS_PER_S: Final = 1_000_000
"""A job is due after the time that its text takes at this rate: about a tokenizer's own."""

Result = TypeVar("Result")


@dataclass(order=True, slots=True)
class TextJob:
    """A text to work on; jobs are ordered by the time they are due, then by arrival."""

    due_s: float
    number: int
    model_id: str = field(compare=False)
    characters: int = field(compare=False)
    call: Callable[[], Any] = field(compare=False)
    future: "asyncio.Future[Any]" = field(compare=False)

    @property
    def large(self) -> bool:
        """True if only one such job may run at a time."""
        return self.characters > LARGE_CHARACTERS


class TextQueue:
    """Decides which job is next: pure, no threads.

    Models take turns by the characters that were worked on for them. Within a model jobs go by the
    time they are due, which is their arrival plus a time in proportion to their length: short texts
    overtake long ones that have not waited long, and no text is starved.
    """

    def __init__(self) -> None:
        self._small: dict[str, list[TextJob]] = {}
        self._large: dict[str, list[TextJob]] = {}
        self._used: dict[str, int] = {}
        """Characters worked on for each model, raised to the clock when it wakes."""
        self._clock = 0
        """Used characters of the model that was served last; never decreases."""

    def put(self, job: TextJob) -> None:
        """Queue a job."""
        model_id = job.model_id
        if model_id not in self._small and model_id not in self._large:
            # Idle time earns no credit: a waking model would hold all others back.
            self._used[model_id] = max(self._used.get(model_id, 0), self._clock)
        lane = self._large if job.large else self._small
        heapq.heappush(lane.setdefault(model_id, []), job)

    def next(self, *, large: bool) -> TextJob | None:
        """Take the next job; without `large` a small one. None if there is none."""
        best: dict[str, TextJob] = {}
        for lane in (self._small, self._large) if large else (self._small,):
            for model_id, jobs in lane.items():
                best[model_id] = min(jobs[0], best.get(model_id, jobs[0]))
        if not best:
            return None
        model_id = min(best, key=lambda each: (self._used[each], best[each]))
        job = best[model_id]
        self._remove(job)
        self._clock = max(self._clock, self._used[model_id])
        self._used[model_id] += job.characters
        return job

    def discard(self, job: TextJob) -> None:
        """Remove a cancelled job, if it has not been taken."""
        lane = self._large if job.large else self._small
        if any(each is job for each in lane.get(job.model_id, ())):
            self._remove(job)

    def _remove(self, job: TextJob) -> None:
        lane = self._large if job.large else self._small
        jobs = lane[job.model_id]
        if jobs[0] is job:
            heapq.heappop(jobs)
        else:
            jobs[:] = [each for each in jobs if each is not job]
            heapq.heapify(jobs)
        if not jobs:
            del lane[job.model_id]


class TextThreads:
    """Runs jobs in a few threads, of which large texts never hold more than one.

    All methods are called on the event loop.
    """

    def __init__(self, threads: int = 2) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="text")
        self._free = threads
        self._large_runs = False
        self._queue = TextQueue()
        self._numbers = itertools.count()
        self._running: set[asyncio.Task[None]] = set()

    async def run(self, call: Callable[[], Result], *, model_id: str, characters: int) -> Result:
        """Run a call on a text of *characters* characters; a cancelled one is not started."""
        due_s = time.monotonic() + characters / DUE_CHARACTERS_PER_S
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        job = TextJob(due_s, next(self._numbers), model_id, characters, call, future)
        self._queue.put(job)
        self._start()
        try:
            return await future
        except asyncio.CancelledError:
            self._queue.discard(job)
            raise

    def close(self) -> None:
        """Begin no more jobs."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _start(self) -> None:
        while self._free:
            job = self._queue.next(large=not self._large_runs)
            if job is None:
                return
            self._free -= 1
            self._large_runs |= job.large
            task = asyncio.get_running_loop().create_task(self._work(job))
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    async def _work(self, job: TextJob) -> None:
        try:
            result = await asyncio.get_running_loop().run_in_executor(self._pool, job.call)
        except Exception as error:  # noqa: BLE001 - whoever asked is told, and judges it
            if not job.future.done():
                job.future.set_exception(error)
        else:
            if not job.future.done():
                job.future.set_result(result)
        finally:
            self._free += 1
            if job.large:
                self._large_runs = False
            self._start()
