"""Loading: from files to a started, probed engine with its memory reserved, and back."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple

from model_registry.spec import ResolvedModel
from service.core.errors import TriptychError
from service.core.events import ModelMemory
from service.core.ports import Budgeted, Engine, LoadProgress, LoadReporting, MemoryEstimate
from service.serving.memory.reservation import Tenant
from service.serving.models.conformance import Conformance, probe
from service.serving.models.dependencies import Hosting

log = logging.getLogger(__name__)

#: How often the progress of a load is polled.
PROGRESS_S = 0.2
WAITS_FOR_MEMORY = LoadProgress(stage="memory")


class Loaded(NamedTuple):
    """The result of a load."""

    engine: Engine
    held_bytes: int | None
    """Measured at rest; None if the model is not counted or its size is unknown."""
    conformance: Conformance | None
    """None if models are not probed."""


class Loading:
    """Loads, probes and closes the engines of one model; the only code of it at the gate."""

    def __init__(
        self,
        tenant: Tenant,
        hosting: Hosting,
        *,
        on_progress: Callable[[], None],
        on_waiting: Callable[[], None],
    ) -> None:
        """Load nothing yet.

        Args:
            tenant: The model, for its reservations.
            hosting: What all models share.
            on_progress: Called when `progress` has changed.
            on_waiting: Called before a load waits for memory; may cancel the load.
        """
        self._tenant = tenant
        self._hosting = hosting
        self._on_progress = on_progress
        self._on_waiting = on_waiting
        self._opening: Engine | None = None
        self.waits_for_memory = False
        self.predicted_bytes: int | None = None
        """The engine's estimate; None before the first load."""
        self.measured_bytes: int | None = None
        """Held at rest at the last load."""

    @property
    def progress(self) -> LoadProgress | None:
        """Progress of the load under way; None without one, or if the engine does not report."""
        if self.waits_for_memory:
            return WAITS_FOR_MEMORY
        opening = self._opening
        return opening.load_progress() if isinstance(opening, LoadReporting) else None

    def need_bytes(self, model: ResolvedModel) -> int:
        """Blocking: what a load would reserve; 0 if the model is not counted or unavailable."""
        with contextlib.suppress(TriptychError):
            engine = self._hosting.opener(model)
            if isinstance(engine, Budgeted):
                need = engine.memory_estimate()
                return self._hosting.measured.get(model, need) or need.held_bytes
        return 0

    async def load(self, model: ResolvedModel) -> Loaded:
        """Start an engine and probe it; a load that fails or is cancelled is undone.

        Raises what opener, memory or engine raise.
        """
        engine = self._opening = self._hosting.opener(model)
        try:
            async with contextlib.AsyncExitStack() as undo:
                undo.push_async_callback(self._abandon, engine)
                need = await self._reserve(engine)
                async with self._beside_measurements():
                    await self._start(engine)
                    held_bytes = _held_bytes(engine.memory())
                    found = await self._probe(engine) if self._hosting.probe else None
                if need is None or held_bytes is None:
                    held_bytes = None
                else:
                    self.measured_bytes = held_bytes
                    await asyncio.to_thread(self._hosting.measured.put, model, need, held_bytes)
                undo.pop_all()
        finally:
            self._opening = None
        return Loaded(engine, held_bytes, found)

    async def probe_again(self, engine: Engine) -> Conformance:
        """Repeat the conformance probe on a running engine."""
        async with self._beside_measurements():
            return await self._probe(engine)

    async def close(self, engine: Engine, *, hurry: asyncio.Event) -> None:
        """Close an engine and release its memory, whatever the engine raises.

        Freeing memory disturbs an isolated measurement, so that is waited for unless *hurry* is
        set, before or meanwhile.
        """
        try:
            async with _entered_unless(self._beside_measurements(), hurry):
                await engine.aclose()
        except Exception:  # the engine is lost either way, and with it its memory
            log.exception("closing %s failed", self._tenant.id)
        finally:
            self._hosting.memory.release(self._tenant)

    def _beside_measurements(self) -> AbstractAsyncContextManager[None]:
        """Pass the gate: not while an isolated measurement runs."""
        return self._hosting.gate.background()

    async def _reserve(self, engine: Engine) -> MemoryEstimate | None:
        """Wait for room for what the engine will hold; None if it is not counted."""
        if not isinstance(engine, Budgeted):
            return None
        need = await asyncio.to_thread(engine.memory_estimate)
        measured = self._hosting.measured.get(engine.model, need)
        self.predicted_bytes, self.measured_bytes = need.held_bytes, measured
        self.waits_for_memory = True
        try:
            self._on_waiting()
            await self._hosting.memory.reserve(
                self._tenant, need.held_bytes if measured is None else measured
            )
        finally:
            self.waits_for_memory = False
        return need

    async def _start(self, engine: Engine) -> None:
        telling = asyncio.create_task(self._poll_progress(), name="poll load progress")
        try:
            await engine.start()
        finally:
            telling.cancel()

    async def _probe(self, engine: Engine) -> Conformance:
        found = await probe(engine)
        if found.passed is False:
            log.warning("%s is served unverified: %s", self._tenant.id, found.reason)
        return found

    async def _poll_progress(self) -> None:
        told = None
        while True:
            if self.progress != told:
                self._on_progress()
            told = self.progress
            await asyncio.sleep(PROGRESS_S)

    async def _abandon(self, engine: Engine) -> None:
        """Undo a load; a cancellation waits until that is done."""
        closing = asyncio.ensure_future(engine.aclose())
        cancelled: asyncio.CancelledError | None = None
        while not closing.done():
            try:
                await asyncio.wait([closing])
            except asyncio.CancelledError as error:
                cancelled = error
        if not closing.cancelled() and (failure := closing.exception()) is not None:
            # The load's own failure is what counts.
            log.warning("%s: undoing its load: %s", self._tenant.id, failure)
        self._hosting.memory.release(self._tenant)
        if cancelled is not None:
            raise cancelled


@contextlib.asynccontextmanager
async def _entered_unless(
    context: AbstractAsyncContextManager[None], skip: asyncio.Event
) -> AsyncIterator[None]:
    """Enter *context*, or go on without it as soon as *skip* is set."""
    entering = asyncio.ensure_future(context.__aenter__())
    skipping = asyncio.ensure_future(skip.wait())
    try:
        await asyncio.wait([entering, skipping], return_when=asyncio.FIRST_COMPLETED)
        if not entering.done():
            entering.cancel()
            await asyncio.wait([entering])
        yield
    finally:
        skipping.cancel()
        if not entering.cancel() and not entering.cancelled() and entering.exception() is None:
            await context.__aexit__(None, None, None)


def _held_bytes(memory: ModelMemory) -> int | None:
    """All that a model holds; None if its weights are unknown."""
    if memory.weights_bytes is None:
        return None
    return memory.weights_bytes + (memory.slots_bytes or 0) + (memory.workspace_bytes or 0)
