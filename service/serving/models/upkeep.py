"""Periodic upkeep of the models: find files, unload what is idle, verify restarted engines."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Collection

from service.core.errors import TriptychError
from service.serving.gate import Gate
from service.serving.models.hosted_model import HostedModel

log = logging.getLogger(__name__)

#: How often missing files are looked for: `models pull` runs in another process.
LOOK_EVERY_S = 15.0
#: How long a start waits for the first look; hashing large new files goes on behind it.
FIRST_LOOK_S = 2.0
#: Longest interval between two looks for idle models.
IDLE_EVERY_S = 15.0
#: How often restarted engines are looked for.
VERIFY_EVERY_S = 1.0


class Upkeep:
    """Background tasks that outlive any error of what they do."""

    def __init__(
        self,
        models: Collection[HostedModel],
        *,
        gate: Gate,
        idle_ttl_s: float,
        clock_ns: Callable[[], int],
    ) -> None:
        """Start nothing yet; an *idle_ttl_s* of 0 keeps idle models loaded."""
        self._models = models
        self._gate = gate
        self._idle_ttl_s = idle_ttl_s
        self._clock_ns = clock_ns
        self._looked = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Begin; returns after the first look for files, or within about two seconds."""
        self._repeat(self.look_for_files, LOOK_EVERY_S)
        self._repeat(self.verify_restarted, VERIFY_EVERY_S)
        if self._idle_ttl_s:
            self._repeat(self.unload_idle, min(self._idle_ttl_s / 4, IDLE_EVERY_S))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FIRST_LOOK_S):
                await self._looked.wait()

    async def look_for_files(self) -> None:
        """Look for the files of every model that is not loaded."""
        for hosted in self._models:
            if hosted.engine is None:
                async with self._gate.background():  # large new files are hashed
                    found = await asyncio.to_thread(hosted.files.look)
                hosted.note_files(str(found) if isinstance(found, TriptychError) else None)
        self._looked.set()

    async def verify_restarted(self) -> None:
        """Probe engines again whose process was restarted."""
        for hosted in self._models:
            hosted.verify()

    async def unload_idle(self) -> None:
        """Unload models that nobody has used for the idle limit, unless they are pinned."""
        now_ns = self._clock_ns()
        for hosted in self._models:
            rested_s = (now_ns - (hosted.life.last_used_ns or 0)) / 1e9
            if hosted.idle and not hosted.pinned and rested_s >= self._idle_ttl_s:
                hosted.begin_unload("since it was idle")

    def _repeat(self, work: Callable[[], Awaitable[None]], every_s: float) -> None:
        async def repeat() -> None:
            while True:
                try:
                    await work()
                except Exception:
                    log.exception("%s failed; trying again in %g s", name, every_s)
                await asyncio.sleep(every_s)

        name = getattr(work, "__name__", "upkeep")
        self._tasks.append(asyncio.create_task(repeat(), name=name))

    async def aclose(self) -> None:
        """End all tasks."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        self._tasks.clear()
