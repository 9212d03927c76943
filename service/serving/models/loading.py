"""From files to a started engine in memory of its own, and what was learned on the way."""

import asyncio
import contextlib
import logging
from collections.abc import Callable

from model_registry.spec import ResolvedModel
from service.core.errors import TriptychError
from service.core.events import ModelMemory
from service.core.ports import Budgeted, Engine, LoadProgress, LoadReporting, MemoryEstimate
from service.serving.memory.device_memory import Tenant
from service.serving.models.conformance import Conformance, probe
from service.serving.models.dependencies import Hosting

log = logging.getLogger(__name__)

#: How often the progress of a load is looked at.
PROGRESS_S = 0.2
WAITS_FOR_MEMORY = LoadProgress(stage="memory")


class Loading:
    """Loads one model, again and again: at most one load is under way."""

    def __init__(self, tenant: Tenant, hosting: Hosting, *, tell: Callable[[], None]) -> None:
        """Load nothing yet; *tell* is called when `progress` has changed."""
        self._tenant = tenant
        self._hosting = hosting
        self._tell = tell
        self._opening: Engine | None = None
        self.waits_for_memory = False
        self.predicted_bytes: int | None = None
        """What the engine said it would hold; None before the first load."""
        self.measured_bytes: int | None = None
        """What it held at rest when it was loaded last."""
        self.conformance: Conformance | None = None
        """What the last probe found."""

    @property
    def progress(self) -> LoadProgress | None:
        """How far the load is, None where none is under way or it does not tell."""
        if self.waits_for_memory:
            return WAITS_FOR_MEMORY
        opening = self._opening
        return opening.load_progress() if isinstance(opening, LoadReporting) else None

    def need_bytes(self, model: ResolvedModel) -> int:
        """Blocking: what a load would book, 0 where the model does not count or cannot be had."""
        with contextlib.suppress(TriptychError):
            engine = self._hosting.opener(model)
            if isinstance(engine, Budgeted):
                need = engine.memory_estimate()
                return self._hosting.measured.get(model, need) or need.held_bytes
        return 0

    async def start(self, model: ResolvedModel) -> tuple[Engine, int | None]:
        """A started, probed engine, and what it holds; None if it is not counted or unknown.

        A start that fails or is cancelled is undone. Raises what opener, memory or engine raise.
        """
        engine = self._opening = self._hosting.opener(model)
        try:
            async with contextlib.AsyncExitStack() as undo:
                undo.push_async_callback(self._abandon, engine)
                need = await self._admit(engine)
                async with self._hosting.gate.background():
                    held_bytes = await self._run(engine)
                if need is None or held_bytes is None:
                    held_bytes = None
                else:
                    self.measured_bytes = held_bytes
                    await asyncio.to_thread(self._hosting.measured.put, model, need, held_bytes)
                undo.pop_all()
        finally:
            self._opening = None
        return engine, held_bytes

    async def _admit(self, engine: Engine) -> MemoryEstimate | None:
        """Wait for room for what the engine will hold; None if it does not count here."""
        if not isinstance(engine, Budgeted):
            return None
        need = await asyncio.to_thread(engine.memory_estimate)
        measured = self._hosting.measured.get(engine.model, need)
        self.predicted_bytes, self.measured_bytes = need.held_bytes, measured
        self.waits_for_memory = True
        try:
            wanted_bytes = need.held_bytes if measured is None else measured
            await self._hosting.memory.admit(self._tenant, wanted_bytes)
        finally:
            self.waits_for_memory = False
        return need

    async def _run(self, engine: Engine) -> int | None:
        """Start and probe; what the engine holds at rest."""
        telling = asyncio.create_task(self._tell_progress())
        try:
            await engine.start()
        finally:
            telling.cancel()
        held_bytes = _held_bytes(engine.memory())
        if self._hosting.probe:
            found = self.conformance = await probe(engine)
            if found.passed is False:
                log.warning("%s is served unverified: %s", self._tenant.id, found.reason)
        return held_bytes

    async def _tell_progress(self) -> None:
        told = None
        while True:
            if self.progress != told:
                self._tell()
            told = self.progress
            await asyncio.sleep(PROGRESS_S)

    async def _abandon(self, engine: Engine) -> None:
        with contextlib.suppress(TriptychError):  # the load's own failure is what counts
            await engine.aclose()
        self._hosting.memory.vacate(self._tenant)


def _held_bytes(memory: ModelMemory) -> int | None:
    """Everything that a model holds; None if its weights are not known."""
    if memory.weights_bytes is None:
        return None
    return memory.weights_bytes + (memory.slots_bytes or 0) + (memory.workspace_bytes or 0)
