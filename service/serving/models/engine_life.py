"""EngineLife: the one owner of a model's engine, from its load to its close."""

import asyncio
import logging
from collections.abc import Callable
from typing import NamedTuple

from service.core.errors import Draining, ModelNotReady, Overloaded, TriptychError
from service.core.model_status import LoadState
from service.serving.memory.reservation import Tenant
from service.serving.models.dependencies import Hosting
from service.serving.models.files import LocatedModel
from service.serving.models.life import ANSWERING, LEAVING, SETTLED, WORKING, Event, Phase, step
from service.serving.models.loading import Loaded, Loading
from service.serving.models.verification import Verification
from service.serving.models.waiters import LoadedEngine, Waiters

log = logging.getLogger(__name__)

#: Retry-After of a load that was cancelled: the next request starts another.
RETRY_S = 1.0
#: Retry-After during shutdown: long enough for another instance to take over.
RETRY_AFTER_DRAIN_S = 5.0


class _Failure(NamedTuple):
    """A load without a result."""

    rests_as: LoadState
    error: TriptychError


class EngineLife:
    """Applies events to a model's phase at once, and does the work that the phase asks for.

    The work is done by one owner task, one load or close after the other; the task ends when the
    model settles. Nothing else loads or closes an engine.
    """

    def __init__(
        self,
        tenant: Tenant,
        files: LocatedModel,
        hosting: Hosting,
        *,
        on_change: Callable[[], None],
        on_progress: Callable[[], None],
    ) -> None:
        """Begin at rest: nothing is loaded.

        Args:
            tenant: The model, for its reservations.
            files: The model's files.
            hosting: What all models share.
            on_change: Called when the phase or what is known of it has changed.
            on_progress: Called when the progress of a load has changed.
        """
        self.phase = Phase.RESTING
        self.loaded: LoadedEngine | None = None
        self.rests_as: LoadState = "unavailable"
        """The state without an engine."""
        self.error: str | None = "its files were not checked yet"
        """Why it rests so."""
        self.reason: str | None = None
        """Why it is unloaded."""
        self.failed_at_ns = 0
        self.load_ns: int | None = None
        self.loads = self.evictions = 0
        self.last_used_ns: int | None = None
        self.loading = Loading(
            tenant, hosting, on_progress=on_progress, on_waiting=self._abandon_unwanted
        )
        self.verification = Verification(self.loading.probe_again, on_change=on_change)
        self._name = tenant.id
        self._tenant = tenant
        self._files = files
        self._memory = hosting.memory
        self._gate = hosting.gate
        self._clock_ns = hosting.clock_ns
        self._on_change = on_change
        self._waiters = Waiters()
        self._wanted = False
        """An operator asked for the load: it goes on when all clients have left."""
        self._owner: asyncio.Task[None] | None = None
        self._load: asyncio.Task[Loaded | _Failure] | None = None
        self._cut: asyncio.TimerHandle | None = None
        self._hurry = asyncio.Event()
        self._departures: list[asyncio.Future[None]] = []

    @property
    def settled(self) -> bool:
        """True if nothing changes before the next external event."""
        busy = self._owner or self._cut or self._waiters or self._departures
        return self.phase in SETTLED and not busy

    # Waiting

    async def wait_loaded(self, *, uses: bool) -> LoadedEngine:
        """Load if need be; with *uses*, count the caller as a user from the moment of the load.

        Raises the load's error.
        """
        if self.phase in (Phase.ENDING, Phase.ENDED):
            raise self._draining()
        try:
            outcome = await self._waiters.wait(lambda: self.apply(Event.LOAD), uses=uses)
        except asyncio.CancelledError:
            self._abandon_unwanted()
            self.check_idle()
            raise
        if isinstance(outcome, TriptychError):
            raise outcome
        return outcome

    def want(self) -> None:
        """Load if need be; the load goes on with nobody waiting for it."""
        if self.phase not in (Phase.SERVING, Phase.ENDING, Phase.ENDED):
            self._wanted = True
            self.apply(Event.LOAD)

    async def wait_unloaded(self) -> None:
        """Return once no unload and no cancelled load is under way."""
        if self.phase in LEAVING - {Phase.LOADING_TO_EVICT, Phase.EVICTING}:
            departure = asyncio.get_running_loop().create_future()
            self._departures.append(departure)
            try:
                await departure
            finally:
                if departure in self._departures:
                    self._departures.remove(departure)

    def check_idle(self) -> None:
        """Close the engine if it was to be unloaded once idle, and serve waiters for its memory."""
        if self.loaded is not None and not self.loaded.users:
            self.apply(Event.IDLE)
            self._memory.changed()

    def touch(self) -> None:
        """Note a use of the engine."""
        self.last_used_ns = self._clock_ns()

    def hurry(self) -> None:
        """Close without waiting for an isolated measurement."""
        self._hurry.set()

    async def shut_down(self) -> None:
        """Undo a load, close the engine; running requests fail. Returns when all is done."""
        self.apply(Event.SHUTDOWN)
        self.hurry()
        if self._owner is not None:
            await asyncio.wait([self._owner])

    def _abandon_unwanted(self) -> None:
        if self.loading.waits_for_memory and not self._wanted and not self._waiters:
            self.apply(Event.ABANDONED)

    # Transitions

    def apply(self, event: Event, *, reason: str | None = None) -> None:
        """Make the transition and start the work that follows from it."""
        before = self.phase
        self.phase, cancel_load = step(before, event)
        if reason is not None and self.phase is not before:
            self.reason = reason
        if self.loaded is not None and (
            self.phase is Phase.SERVING or (event is Event.LOADED and self.phase in ANSWERING)
        ):
            self._waiters.grant(self.loaded)
            self._wanted = False
        if self.phase is not before:
            self._entered(before)
        if cancel_load:
            self._cancel_load()
        if self.phase in WORKING and self._owner is None:
            self._owner = asyncio.create_task(self._own(), name=f"own {self._name}")
        if self.phase in (Phase.EVICTING, Phase.UNLOADING) and not self._users:
            self.apply(Event.IDLE)
        elif self.phase is Phase.RESTING and (self._waiters or self._wanted):
            self.apply(Event.LOAD)

    def _entered(self, before: Phase) -> None:
        """Begin and end what belongs to one phase alone."""
        phase = self.phase
        if phase in (Phase.LOADING, Phase.SERVING):
            self.reason = self.error = None
        if phase is Phase.LOADING and before is Phase.RESTING:
            self.verification.forget()
        if before is Phase.UNLOADING and self._cut is not None:
            self._cut.cancel()
            self._cut = None
        if before is Phase.SERVING:
            self.verification.cancel()
        if phase is Phase.CLOSING:
            self.evictions += before is Phase.EVICTING
            self._hurry.clear()
            if self._users:
                self._hurry.set()  # they were cut: that waits for nobody
        self._on_change()
        if phase in (Phase.ENDING, Phase.ENDED):
            self._wanted = False
            self._waiters.fail(self._draining())
        if phase in LEAVING:
            self._memory.send_back(self._tenant)
        if phase in (Phase.RESTING, Phase.ENDED):
            self._depart()

    def _cancel_load(self) -> None:
        self._wanted = False
        self._waiters.fail(self._not_loaded("it was unloaded meanwhile"))
        if self._load is not None:
            self._load.cancel()

    def _depart(self) -> None:
        departures, self._departures = self._departures, []
        for departure in departures:
            if not departure.done():
                departure.set_result(None)

    def cut_in(self, drain_s: float) -> None:
        """Cut running requests after *drain_s*, or sooner if that was decided before."""
        if drain_s <= 0:
            self.apply(Event.CUT)
            return
        loop = asyncio.get_running_loop()
        at_s = loop.time() + drain_s
        if self._cut is not None and self._cut.when() <= at_s:
            return
        if self._cut is not None:
            self._cut.cancel()
        self._cut = loop.call_at(at_s, self.apply, Event.CUT)

    def _not_loaded(self, why: str) -> ModelNotReady:
        return ModelNotReady(f"{self._name} was not loaded: {why}", retry_after_s=RETRY_S)

    def _draining(self) -> Draining:
        return Draining(
            f"{self._name} was not loaded: the service is shutting down",
            retry_after_s=RETRY_AFTER_DRAIN_S,
        )

    # The owner's work

    async def _own(self) -> None:
        """Load and close, one after the other, until the model settles."""
        try:
            while self.phase in WORKING:
                if self.loaded is None:
                    await self._run_load()
                else:
                    await self._run_close(self.loaded)
        finally:
            self._owner = None

    async def _run_load(self) -> None:
        if self.phase in (Phase.ABORTING, Phase.ENDING):  # cancelled before it began
            self.rest("unloaded")
            self.apply(Event.LOAD_FAILED)
            return
        began_ns = self._clock_ns()
        self._load = asyncio.create_task(self._load_engine(), name=f"load {self._name}")
        await asyncio.wait([self._load])
        load, self._load = self._load, None
        if load.cancelled():
            outcome: Loaded | _Failure = _Failure(
                "failed", self._not_loaded("its engine aborted the load")
            )
        else:
            outcome = load.result()
        if isinstance(outcome, _Failure):
            self._note_failure(outcome)
            self.apply(Event.LOAD_FAILED)
            return
        self.loaded = LoadedEngine(outcome.engine)
        self.verification.note(outcome.engine, outcome.conformance)
        self.loads += 1
        self.touch()
        self.load_ns = self._clock_ns() - began_ns
        if outcome.held_bytes is not None:
            self._memory.adjust(self._tenant, outcome.held_bytes)
        self.apply(Event.LOADED)

    async def _load_engine(self) -> "Loaded | _Failure":
        """Load and probe; a failure is returned, since nobody may be waiting for it."""
        try:
            async with self._gate.background():  # large new files are hashed
                model = await asyncio.to_thread(self._files.look)
            if isinstance(model, TriptychError):
                return _Failure("unavailable", model)
            return await self.loading.load(model)
        except TriptychError as error:
            return _Failure("unloaded" if isinstance(error, Overloaded) else "failed", error)
        except Exception:  # an engine's bug ends this load, not the service
            log.exception("loading %s failed", self._name)
            return _Failure(
                "failed", ModelNotReady(f"{self._name} failed to load; see the service's log")
            )

    def _note_failure(self, failure: "_Failure") -> None:
        """Fail those who waited, unless the load was to be undone: they wait for the next."""
        if self.phase in (Phase.ABORTING, Phase.ENDING):
            self.rest("unloaded")
            return
        self.failed_at_ns = self._clock_ns()
        self.rest(failure.rests_as, str(failure.error))
        self._wanted = False
        self._waiters.fail(failure.error)

    async def _run_close(self, loaded: LoadedEngine) -> None:
        await self.verification.stop()
        await self.loading.close(loaded.engine, hurry=self._hurry)
        log.info("%s was unloaded %s", self._name, self.reason or "with the service")
        self.loaded = None
        self.rest("unloaded")
        self.apply(Event.CLOSED)

    def rest(self, state: LoadState, error: str | None = None) -> None:
        """Set the state without an engine."""
        self.rests_as, self.error = state, error

    @property
    def _users(self) -> int:
        return self.loaded.users if self.loaded else 0
