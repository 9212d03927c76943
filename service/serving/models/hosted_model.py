"""HostedModel: one model that can be addressed, as requests, operators and the budget see it."""

from model_registry.catalog import CatalogEntry
from service.core.errors import EngineFailed, TriptychError
from service.core.model_status import LoadState, ModelStatus
from service.core.ports import Engine, HasLiveness, Liveness, Restartable, Supervised
from service.serving.memory.eviction import Resident
from service.serving.models.dependencies import Hosting
from service.serving.models.engine_life import EngineLife
from service.serving.models.events import ChangeKind, ModelChange
from service.serving.models.files import LocatedModel
from service.serving.models.life import LEAVING, WORKING, Event, Phase
from service.serving.models.queue import Queue
from service.serving.models.waiters import LoadedEngine

#: How long routes avoid a model that failed to load; a request that names it always tries.
FAILED_LOAD_REST_S = 30.0
#: Least Retry-After while an engine is being restarted.
RESTART_RETRY_S = 1.0


class HostedModel:
    """`model` or `model:variant`: its files, its queue, and the life of its engine."""

    def __init__(self, entry: CatalogEntry, variant: str | None, hosting: Hosting) -> None:
        self.entry = entry
        self.variant = variant
        self.id = f"{entry.spec.id}:{variant}" if variant else entry.spec.id
        self.pinned = False
        self.memory = hosting.memory
        self.queue = Queue(
            self.id, limit=hosting.max_requests, released=hosting.released, random=hosting.random
        )
        self.files = LocatedModel(
            entry,
            variant,
            locate=hosting.locate,
            models_dir=hosting.models_dir,
            refusal=hosting.refusal,
        )
        self.life = EngineLife(
            self,
            self.files,
            hosting,
            on_change=self._publish_state,
            on_progress=lambda: self._publish("progress"),
        )
        self._hosting = hosting
        self._published: tuple[LoadState, str | None, str | None] | None = None

    def __repr__(self) -> str:
        return f"<HostedModel {self.id} {self.life.phase} requests={self.queue.requests}>"

    # Use

    @property
    def engine(self) -> Engine | None:
        """The engine, from its load to its close."""
        return self.life.loaded.engine if self.life.loaded else None

    @property
    def users(self) -> int:
        """Requests that use the engine; while there are any, it stays unless it is cut."""
        return self.life.loaded.users if self.life.loaded else 0

    async def enter(self) -> tuple[LoadedEngine, int | None]:
        """Use the engine until `leave`; also the nanoseconds that this call waited for a load.

        All who wait share one load; after a failed one the next call tries again.
        Raises ModelNotFound, ModelNotReady, DoesNotFit, Overloaded or EngineFailed.
        """
        life, loaded = self.life, self.life.loaded
        if loaded is not None and life.phase is Phase.SERVING:
            self._refuse_if_down(loaded.engine)
            loaded.users += 1
            life.touch()
            return loaded, None
        started_ns = self._hosting.clock_ns()
        loaded = await life.wait_loaded(uses=True)
        life.touch()
        return loaded, self._hosting.clock_ns() - started_ns

    def leave(self, loaded: LoadedEngine) -> None:
        """End a use, after `enter`."""
        loaded.users -= 1
        self.life.touch()
        self.life.check_idle()

    def _refuse_if_down(self, engine: Engine) -> None:
        """Raise at once, with `retry_after_s`, while the engine's process is being restarted.

        A remote server that was out of reach is asked: nothing else tells that it is back.
        """
        if isinstance(engine, Restartable) and (trouble := self.trouble) is not None:
            raise EngineFailed(trouble, retry_after_s=self._restart_s(engine))

    # Operators

    def begin_load(self) -> None:
        """Load the model if it is not loaded; the load goes on with nobody waiting for it."""
        self.life.want()

    async def load(self) -> None:
        """Load the model and wait for it. Raises ModelNotReady, DoesNotFit or Overloaded."""
        if self.life.phase is not Phase.SERVING:
            self.life.want()
            await self.life.wait_loaded(uses=False)

    def begin_unload(self, reason: str, *, drain_s: float | None = None) -> None:
        """Unload once idle, or after *drain_s*: requests that still run then fail.

        Newcomers wait for a new load. A load under way is cancelled, and those who wait for it are
        told.
        """
        life = self.life
        life.apply(Event.UNLOAD, reason=reason)
        if drain_s is None:
            return
        if life.phase is Phase.UNLOADING:
            life.cut_in(drain_s)
        elif life.phase is Phase.CLOSING and drain_s <= 0:
            life.hurry()

    async def unloaded(self) -> None:
        """Return once no unload and no cancelled load is under way."""
        await self.life.wait_unloaded()

    def pin(self, *, pinned: bool) -> None:
        """Never evict the model nor unload it when idle, or do so again."""
        if self.pinned != pinned:
            self.pinned = pinned
            self._publish("pin")
            if pinned:
                self.life.apply(Event.CANCEL_EVICTION)
            self.memory.changed()

    def note_files(self, error: str | None) -> None:
        """Apply the result of a file check, unless a load has begun."""
        life = self.life
        if life.phase is Phase.RESTING and life.rests_as in ("unavailable", "unloaded"):
            life.rest("unavailable" if error else "unloaded", error)
            self._publish_state()

    def verify(self) -> None:
        """Repeat the probe if the engine was restarted since it was last probed."""
        if self.life.phase is Phase.SERVING and self.engine is not None and self.trouble is None:
            self.life.verification.check(self.engine)

    async def aclose(self) -> None:
        """Undo a load, close the engine; running requests fail. Returns when all is done."""
        await self.life.shut_down()

    # Memory

    def evict(self, reason: str) -> None:
        """Unload once idle: others wait for its memory."""
        self.life.apply(Event.EVICT, reason=reason)

    def cancel_eviction(self) -> None:
        """Keep serving, unless it is closing already."""
        self.life.apply(Event.CANCEL_EVICTION)

    def resident(self, held_bytes: int, state_bytes: int) -> Resident:
        """Describe the model for an eviction decision."""
        return Resident(
            id=self.id,
            held_bytes=held_bytes,
            state_bytes=state_bytes,
            pinned=self.pinned,
            busy=self.users > 0 or self.life.phase in WORKING,
            leaving=self.leaving,
            last_used_ns=self.life.last_used_ns or 0,
            load_ns=self.life.load_ns,
        )

    def need_bytes(self) -> int:
        """Blocking: what it holds or would; 0 if it is not counted or its files are not here."""
        if self.engine is not None:
            return self.memory.held_bytes(self.id)
        model = self.files.look()
        return 0 if isinstance(model, TriptychError) else self.life.loading.need_bytes(model)

    # Reading

    @property
    def leaving(self) -> bool:
        """True while it is being evicted or unloaded; requests wait for the next load."""
        return self.life.phase in LEAVING

    @property
    def idle(self) -> bool:
        """True if it is loaded and not in use."""
        return self.life.phase is Phase.SERVING and not self.users

    @property
    def trouble(self) -> str | None:
        """Reason why its engine cannot answer now, such as a dead process; None if it can."""
        engine = self.engine
        return engine.trouble() if isinstance(engine, Supervised) else None

    @property
    def slots(self) -> int | None:
        """Requests that its engine answers at once; None if unknown."""
        return self.engine.memory().slots_total if self.engine else None

    @property
    def state(self) -> LoadState:
        """The phase as the API names it."""
        if self.life.phase in (Phase.RESTING, Phase.ENDED):
            return self.life.rests_as
        if self.life.phase in (Phase.LOADING, Phase.LOADING_TO_EVICT):
            return "loading"
        if self.life.phase is Phase.SERVING:
            return "unverified" if self.life.verification.passed is False else "ready"
        return "unloading"

    @property
    def error(self) -> str | None:
        """Reason why it is unavailable, failed to load, or cannot answer now."""
        return self.trouble or self.life.error

    @property
    def retry_after_s(self) -> float | None:
        """When to try again: after a failed load, or while the engine is restarted."""
        if self.engine is not None:
            return self._restart_s(self.engine) if self.trouble else None
        if self.state != "failed":
            return None
        rest_s = FAILED_LOAD_REST_S - (self._hosting.clock_ns() - self.life.failed_at_ns) / 1e9
        return rest_s if rest_s > 0 else None

    def _restart_s(self, engine: Engine) -> float | None:
        """About how long a restart takes; None if the engine does not come back by itself."""
        if isinstance(engine, Restartable) and not engine.restarting:
            return None
        return max(RESTART_RETRY_S, (self.life.load_ns or 0) / 1e9)

    def liveness(self) -> Liveness | None:
        """Progress of its engine; None without an engine that knows."""
        engine = self.engine
        return engine.liveness() if isinstance(engine, HasLiveness) else None

    def status(self) -> ModelStatus:
        """The model's status, from memory."""
        now_ns = self._hosting.clock_ns()
        engine, life, used_ns = self.engine, self.life, self.life.last_used_ns
        return ModelStatus(
            id=self.id,
            spec=self.entry.spec,
            variant=self.variant,
            state=self.state,
            requests=self.queue.requests,
            requests_limit=self.queue.limit,
            architecture=self.files.architecture,
            verified=life.verification.passed,
            verification=life.verification.reason,
            error=self.error,
            down=self.trouble is not None,
            retry_after_s=self.retry_after_s,
            progress=life.loading.progress,
            memory=engine.memory() if engine else None,
            load_ns=life.load_ns,
            loads=life.loads,
            evictions=life.evictions,
            pinned=self.pinned,
            predicted_bytes=life.loading.predicted_bytes,
            measured_bytes=life.loading.measured_bytes,
            requests_state_bytes=self.memory.state_bytes(self.id),
            last_used_s=None if used_ns is None else (now_ns - used_ns) / 1e9,
        )

    def change(self, event: ChangeKind) -> ModelChange:
        """The model at this moment, as an event."""
        return ModelChange(
            event=event,
            model=self.id,
            state=self.state,
            pinned=self.pinned,
            at_ns=self._hosting.events.wall_ns(),
            reason=self.life.reason or self.life.error,
            progress=self.life.loading.progress,
        )

    def _publish_state(self) -> None:
        standing = (self.state, self.life.error, self.life.reason)
        if standing != self._published:
            self._published = standing
            self._publish("state")

    def _publish(self, event: ChangeKind) -> None:
        if self._hosting.events.heard:
            self._hosting.events.publish(self.change(event))
