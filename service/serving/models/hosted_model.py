"""One model that can be addressed: its files, and its engine as it comes and goes."""

import asyncio
import contextlib
import logging
from collections.abc import Coroutine
from functools import partial
from typing import Any, Literal

from model_registry.catalog import CatalogEntry
from service.core.errors import ModelNotReady, Overloaded, TriptychError
from service.core.model_status import LoadState, ModelStatus
from service.core.ports import Engine, HasLiveness, Liveness, Supervised
from service.serving.memory.eviction import Resident
from service.serving.models.dependencies import Hosting
from service.serving.models.events import ModelChange
from service.serving.models.files import LocatedModel
from service.serving.models.loading import Loading
from service.serving.models.queue import Queue

log = logging.getLogger(__name__)


#: How long routes leave a model alone that failed to load; asking for it by name always tries.
FAILED_LOAD_REST_S = 30.0


class HostedModel:
    """`model` or `model:variant`, from its files to its running engine and back."""

    def __init__(self, entry: CatalogEntry, variant: str | None, hosting: Hosting) -> None:
        self.entry = entry
        self.variant = variant
        self.id = f"{entry.spec.id}:{variant}" if variant else entry.spec.id
        self.engine: Engine | None = None
        self.pinned = False
        self.users = 0
        """Who works with the engine or waits for its load: while there are any, it stays."""
        self.last_used_ns: int | None = None
        self.memory = hosting.memory
        self.queue = Queue(
            self.id, limit=hosting.max_requests, released=hosting.released, random=hosting.random
        )
        self._hosting = hosting
        self._state: LoadState = "unavailable"
        self._error: str | None = "not looked for yet"
        self._reason: str | None = None
        self._failure: TriptychError | None = None
        self._failed_at_ns = 0
        self._load: asyncio.Task[Engine | TriptychError] | None = None
        self._load_ns: int | None = None
        self._loads = self._evictions = 0
        self._wanted = False
        """Whether an operator asked for the load, so that it goes on when all clients have left."""
        self._unload: asyncio.Task[None] | None = None
        self._cut = asyncio.Event()
        """Set when requests that still run are not waited for any longer."""
        self._evicting = self._closing = self._closed = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._loading = Loading(self, hosting, tell=partial(self._publish, "progress"))
        self.files = LocatedModel(
            entry, variant, locate=hosting.locate, models_dir=hosting.models_dir
        )

    def __repr__(self) -> str:
        return f"<HostedModel {self.id} {self._state} requests={self.queue.requests}>"

    def looked(self, error: str | None) -> None:
        """Note what a look found, unless a load has got further meanwhile."""
        found: LoadState = "unavailable" if error else "unloaded"
        if self._state in ("unavailable", "unloaded") and (found, error) != self._stands:
            self._become(found, error)

    # Who works with it

    async def enter(self, *, load: bool = True) -> tuple[Engine, int | None]:
        """The running engine, and how long (ns) this call waited for it to load, None if not.

        Until `leave` it is not unloaded, unless by force. All who wait share one load; a failed one
        is tried again by the next call. Raises ModelNotReady, DoesNotFit or Overloaded.
        """
        if self.engine is not None and (self._unload is None or not load):
            self._use(1)
            return self.engine, None
        if not load:
            raise self._failure or ModelNotReady(f"{self.id} is not loaded", param="model")
        started_ns = self._hosting.clock_ns()
        await self.unloaded()
        self._use(1)
        try:
            under_way = self.begin_load()
            await asyncio.wait([under_way])  # a client that leaves takes nothing from the others
            engine = self._loaded(under_way)
        except BaseException:
            self.leave()
            raise
        return engine, self._hosting.clock_ns() - started_ns

    def _loaded(self, load: "asyncio.Task[Engine | TriptychError]") -> Engine:
        if load.cancelled():
            why = "the service is shutting down" if self._closed else "it was unloaded meanwhile"
            raise ModelNotReady(f"{self.id} was not loaded: {why}", retry_after_s=1.0)
        outcome = load.result()
        if isinstance(outcome, TriptychError):
            raise outcome
        return outcome

    def leave(self) -> None:
        """Let the engine go, after `enter`."""
        self._use(-1)
        if self.users == 0 and self._loading.waits_for_memory and not self._wanted and self._load:
            self._load.cancel()  # nobody needs it any more: let others have the room
            self._load = None
            self._become("unloaded")
        if self.users == 0:
            self.memory.changed()

    def _use(self, change: int) -> None:
        self.users += change
        self.last_used_ns = self._hosting.clock_ns()
        if self.users:
            self._idle.clear()
        else:
            self._idle.set()

    # Its engine comes

    def begin_load(self, *, wanted: bool = False) -> "asyncio.Task[Engine | TriptychError]":
        """The load that is under way, or a new one; `wanted` keeps it going with nobody waiting."""
        self._wanted = self._wanted or wanted
        if self._load is None:
            if self.engine is None:
                self._failure = self._loading.conformance = None
                self._become("loading")
            load = self._load = asyncio.create_task(self._run_load(), name=f"load {self.id}")
            load.add_done_callback(self._load_ended)
        return self._load

    def _load_ended(self, load: "asyncio.Task[Engine | TriptychError]") -> None:
        if self._load is load:
            self._load, self._wanted = None, False

    async def _run_load(self) -> Engine | TriptychError:
        """Load and probe; the failure is returned, since nobody may be waiting for it."""
        await self.unloaded()
        if self.engine is not None:
            return self.engine
        self._become("loading")
        started_ns = self._hosting.clock_ns()
        async with self._hosting.gate.background():  # large new files are hashed
            model = await asyncio.to_thread(self.files.look)
        if isinstance(model, TriptychError):
            self._failure = model
            self._become("unavailable", str(model))
            return self._failure
        try:
            engine, held_bytes = await self._loading.start(model)
        except TriptychError as failure:
            return self._fail(failure)
        except Exception:  # an engine's bug ends this load, not the service; it is logged whole
            log.exception("loading %s failed", self.id)
            return self._fail(ModelNotReady(f"{self.id} failed to load; see the service's log"))
        self.engine = engine
        self._loads += 1
        self.last_used_ns = self._hosting.clock_ns()
        self._load_ns = self.last_used_ns - started_ns
        if held_bytes is not None:
            self.memory.settle(self, held_bytes)
        self._become(self._served_as)
        return engine

    def _fail(self, failure: TriptychError) -> TriptychError:
        self._failure, self._failed_at_ns = failure, self._hosting.clock_ns()
        self._become("unloaded" if isinstance(failure, Overloaded) else "failed", str(failure))
        return failure

    # Its engine goes

    def begin_unload(self, reason: str, *, drain_s: float | None = None) -> None:
        """Unload when its requests have ended, or when *drain_s* is over: then they fail.

        Newcomers wait for it to have gone, and then for a new load. A load under way is given up.
        """
        if self.engine is None and self._unload is None:
            if self._load is not None:
                self._load.cancel()
                self._load = None
                self._become("unloaded", reason=reason)
            return
        self._begin_unload(reason)
        if drain_s is not None:
            asyncio.get_running_loop().call_later(drain_s, self._cut.set)

    async def unloaded(self) -> None:
        """Return once no unload is under way."""
        while self._unload is not None:
            await asyncio.wait([self._unload])

    def make_room(self, reason: str) -> None:
        """Unload when its requests have ended; others wait for its memory."""
        self._evicting = self._unload is None
        self._begin_unload(reason)

    def stay(self) -> None:
        """Whoever waited for its memory has left: go on, unless it is closing already."""
        if self._unload is not None and self._evicting and not self._closing:
            self._unload.cancel()
            self._unload, self._evicting = None, False
            self._become(self._served_as if self.engine else "loading")

    def _begin_unload(self, reason: str) -> None:
        if self._unload is None:
            self._cut.clear()
            self._unload = asyncio.create_task(self._run_unload(reason), name=f"unload {self.id}")
            if self.engine is not None:
                self._become("unloading", reason=reason)

    async def _run_unload(self, reason: str) -> None:
        if self._load is not None:
            await asyncio.wait([self._load])
            if self.engine is not None:
                self._become("unloading", reason=reason)
        while self.users and not self._cut.is_set():
            await first_of(self._idle.wait(), self._cut.wait())
        self._closing = True
        try:
            # To take memory apart disturbs an isolated measurement, but a cut waits for nobody.
            gate = self._hosting.gate.shared() if not self.users else contextlib.nullcontext()
            async with gate:
                engine, self.engine = self.engine, None
                if engine is not None:
                    await engine.aclose()
                    self._evictions += self._evicting
                    log.info("%s was unloaded %s", self.id, reason)
        except Exception:  # its memory is counted as free all the same: its engine is lost
            log.exception("unloading %s failed", self.id)
        finally:
            self._unload, self._closing, self._evicting = None, False, False
            if self._state == "unloading":
                self._become("unloaded", reason=reason)
            self.memory.vacate(self)

    async def aclose(self) -> None:
        """Stop loading, close the engine; running requests fail."""
        self._closed = True
        for task in (self._load, self._unload):
            if task is not None:
                task.cancel()
                await asyncio.wait([task])
        if self.engine is not None:
            engine, self.engine = self.engine, None
            self._become("unloaded")
            await engine.aclose()

    # What others may know

    @property
    def verified(self) -> bool | None:
        """Whether the model passed its probe; None if it was not probed."""
        found = self._loading.conformance
        return None if found is None else found.passed

    def liveness(self) -> Liveness | None:
        """Whether its engine makes steps; None without an engine that knows."""
        engine = self.engine
        return engine.liveness() if isinstance(engine, HasLiveness) else None

    @property
    def slots(self) -> int | None:
        """How many requests its engine answers at once; None if that is not known."""
        return self.engine.memory().slots_total if self.engine else None

    @property
    def idle(self) -> bool:
        """Whether it is loaded and nobody works with it or waits for it."""
        busy = self.users or self._load is not None or self._unload is not None
        return self.engine is not None and not busy

    def need_bytes(self) -> int:
        """Blocking: what it holds or would, 0 where it does not count or its files are not here."""
        if self.engine is not None:
            return self.memory.held_bytes(self.id)
        model = self.files.look()
        if isinstance(model, TriptychError):
            return 0
        return self._loading.need_bytes(model)

    def pin(self, *, pinned: bool) -> None:
        """Keep it loaded whatever happens, or no longer."""
        if self.pinned != pinned:
            self.pinned = pinned
            self._publish("pin")
            self.memory.changed()

    def resident(self, held_bytes: int, state_bytes: int) -> Resident:
        """How it stands, as far as memory is concerned."""
        return Resident(
            id=self.id,
            held_bytes=held_bytes,
            state_bytes=state_bytes,
            pinned=self.pinned,
            busy=self.users > 0 or self._load is not None,
            leaving=self._unload is not None,
            last_used_ns=self.last_used_ns or 0,
            load_ns=self._load_ns,
        )

    def standing(self, event: Literal["snapshot", "state", "progress", "pin"]) -> ModelChange:
        """How it stands, as an event."""
        return ModelChange(
            event=event,
            model=self.id,
            state=self._state,
            pinned=self.pinned,
            at_ns=self._hosting.events.wall_ns(),
            reason=self._reason or self._error,
            progress=self._loading.progress,
        )

    def status(self) -> ModelStatus:
        """All of it as a frozen value."""
        engine = self.engine
        trouble = engine.trouble() if isinstance(engine, Supervised) else None
        loading, used_ns = self._loading, self.last_used_ns
        now_ns = self._hosting.clock_ns()
        return ModelStatus(
            id=self.id,
            spec=self.entry.spec,
            variant=self.variant,
            state=self._state,
            requests=self.queue.requests,
            requests_limit=self.queue.limit,
            architecture=self.files.architecture,
            verified=self.verified,
            verification=loading.conformance.reason if loading.conformance else None,
            error=trouble or self._error,
            retry_after_s=self._rest_s(),
            progress=loading.progress,
            memory=engine.memory() if engine else None,
            load_ns=self._load_ns,
            loads=self._loads,
            evictions=self._evictions,
            pinned=self.pinned,
            predicted_bytes=loading.predicted_bytes,
            measured_bytes=loading.measured_bytes,
            requests_state_bytes=self.memory.state_bytes(self.id),
            last_used_s=None if used_ns is None else (now_ns - used_ns) / 1e9,
        )

    @property
    def _served_as(self) -> LoadState:
        return "unverified" if self.verified is False else "ready"

    @property
    def _stands(self) -> tuple[LoadState, str | None]:
        return self._state, self._error

    def _become(
        self, state: LoadState, error: str | None = None, *, reason: str | None = None
    ) -> None:
        self._state, self._error, self._reason = state, error, reason
        self._publish("state")

    def _publish(self, event: Literal["state", "progress", "pin"]) -> None:
        if self._hosting.events.heard:
            self._hosting.events.publish(self.standing(event))

    def _rest_s(self) -> float | None:
        if self._state != "failed":
            return None
        rest_s = FAILED_LOAD_REST_S - (self._hosting.clock_ns() - self._failed_at_ns) / 1e9
        return rest_s if rest_s > 0 else None


async def first_of(*waits: Coroutine[Any, Any, Any]) -> None:
    """Return when the first of these ends; the others are cancelled."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
