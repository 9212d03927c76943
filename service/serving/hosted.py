"""One model that can be addressed: its state, its load and its queue."""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from msgspec import Struct

from model_registry.architecture import read_layers
from model_registry.catalog import CatalogEntry
from model_registry.errors import NotPulled, RegistryError, UnsupportedArchitecture
from model_registry.sources.model_files import read_config
from model_registry.spec import ResolvedModel
from service.core.errors import ModelNotReady, Overloaded, TriptychError
from service.core.ports import Engine, LoadReporting, Pulse, Pulsing, Supervised
from service.serving.conformance import Conformance, probe
from service.serving.gate import Gate
from service.serving.status import ArchitectureSummary, LoadState, ModelStatus

log = logging.getLogger(__name__)

Opener = Callable[[ResolvedModel], Engine]
Locate = Callable[[CatalogEntry, str | None, Path], ResolvedModel]

#: How long routes leave a model alone that failed to load; asking for it by name always tries.
FAILED_LOAD_REST_S = 30.0
#: Weight of the newest service time in its moving average.
NEWEST_SHARE = 0.2


class Hosting(Struct, frozen=True, kw_only=True):
    """What all hosted models share."""

    locate: Locate
    """Blocking: finds a model's files."""
    models_dir: Path
    opener: Opener
    gate: Gate
    max_requests: int
    probe: bool
    released: asyncio.Event
    """Set whenever a place in any queue becomes free."""
    random: Callable[[], float] = random.random
    clock_ns: Callable[[], int] = time.monotonic_ns


class HostedModel:
    """`model` or `model:variant`, from its files to its running engine."""

    def __init__(self, entry: CatalogEntry, variant: str | None, hosting: Hosting) -> None:
        self.entry = entry
        self.variant = variant
        self.id = f"{entry.spec.id}:{variant}" if variant else entry.spec.id
        self.engine: Engine | None = None
        self.requests = 0
        self._hosting = hosting
        self._state: LoadState = "unavailable"
        self._error: str | None = "not looked for yet"
        self._logged: str | None = None
        self._failed_at_ns = 0
        self._load: asyncio.Task[Engine | ModelNotReady] | None = None
        self._load_ns: int | None = None
        self._opening: Engine | None = None
        self._conformance: Conformance | None = None
        self._architecture = _summary(entry.spec.architecture)
        self._service_s: float | None = None

    def __repr__(self) -> str:
        return f"<HostedModel {self.id} {self._state} requests={self.requests}>"

    # Its files

    def look(self) -> tuple[ResolvedModel | None, str | None]:
        """Blocking: the model's files, or why they cannot be used."""
        try:
            model = self._hosting.locate(self.entry, self.variant, self._hosting.models_dir)
            if self._architecture is None and model.path:
                self._architecture = _summary(read_config(Path(model.path)))
        except (NotPulled, UnsupportedArchitecture) as error:
            return None, str(error)
        except RegistryError as error:
            if str(error) != self._logged:  # looked at again and again: logged once
                self._logged = str(error)
                log.warning("the files of %s cannot be used: %s", self.id, error)
            return None, f"the files of {self.id} cannot be used; see the service's log"
        return model, None

    def looked(self, error: str | None) -> None:
        """Note what a look found, unless a load has got further meanwhile."""
        if self._state in ("unavailable", "unloaded"):
            self._state = "unavailable" if error else "unloaded"
            self._error = error

    # Its engine

    async def ready(self, *, load: bool = True) -> tuple[Engine, int | None]:
        """The running engine, and how long (ns) this call waited for it to load, None if not.

        All who wait share one load; a failed one is tried again by the next call. Raises
        ModelNotReady.
        """
        if self.engine is not None:
            return self.engine, None
        if not load:
            raise ModelNotReady(self._error or f"{self.id} is not loaded", param="model")
        started_ns = self._hosting.clock_ns()
        under_way = self.begin_load()
        await asyncio.wait([under_way])  # a client that leaves takes nothing from the others
        if under_way.cancelled():
            raise ModelNotReady(f"{self.id} was not loaded: the service is shutting down")
        outcome = under_way.result()
        if isinstance(outcome, ModelNotReady):
            raise outcome
        return outcome, self._hosting.clock_ns() - started_ns

    def begin_load(self) -> "asyncio.Task[Engine | ModelNotReady]":
        """The load that is under way, or a new one."""
        if self._load is None:
            self._state, self._error, self._conformance = "loading", None, None
            self._load = asyncio.create_task(self._run_load(), name=f"load {self.id}")
            self._load.add_done_callback(lambda _: setattr(self, "_load", None))
        return self._load

    async def _run_load(self) -> Engine | ModelNotReady:
        """Load and probe; the failure is returned, since nobody may be waiting for it."""
        started_ns = self._hosting.clock_ns()
        model, error = await asyncio.to_thread(self.look)
        if model is None:
            self._state, self._error = "unavailable", error
            return ModelNotReady(error or "", param="model")
        try:
            engine = self._opening = self._hosting.opener(model)
        except TriptychError as failure:  # what the catalogue asks for cannot be had here
            return self._failed(str(failure))
        try:
            # A load disturbs whoever is being measured alone.
            async with self._hosting.gate.shared():
                await engine.start()
                if self._hosting.probe:
                    self._conformance = await probe(engine)
        except TriptychError as failure:
            return await self._abandon(engine, str(failure))
        except asyncio.CancelledError:
            await engine.aclose()
            raise
        except Exception:  # an engine's bug ends this load, not the service; it is logged whole
            log.exception("loading %s failed", self.id)
            return await self._abandon(engine, f"{self.id} failed to load; see the service's log")
        finally:
            self._opening = None
        self.engine = engine
        self._load_ns = self._hosting.clock_ns() - started_ns
        faulty = self._conformance is not None and self._conformance.passed is False
        self._state = "unverified" if faulty else "ready"
        if faulty and self._conformance:
            log.warning("%s is served unverified: %s", self.id, self._conformance.reason)
        return engine

    async def _abandon(self, engine: Engine, reason: str) -> ModelNotReady:
        with contextlib.suppress(TriptychError):  # the load's own failure is what counts
            await engine.aclose()
        return self._failed(reason)

    def _failed(self, reason: str) -> ModelNotReady:
        self._state, self._error = "failed", reason
        self._failed_at_ns = self._hosting.clock_ns()
        return ModelNotReady(reason, param="model")

    async def aclose(self) -> None:
        """Stop loading, close the engine; running requests fail."""
        if self._load is not None:
            self._load.cancel()
            await asyncio.wait([self._load])
        if self.engine is not None:
            engine, self.engine, self._state = self.engine, None, "unloaded"
            await engine.aclose()

    # Its queue

    def admit(self) -> None:
        """Take a place in the queue. Raises Overloaded."""
        if self.requests >= self._hosting.max_requests:
            raise Overloaded(
                f"{self.id} has {self.requests} requests waiting or running; try again later",
                retry_after_s=self.drained_in_s() * (1 + self._hosting.random() / 4),
            )
        self.requests += 1

    def release(self, service_s: float | None) -> None:
        """Give the place back; *service_s* is how long the engine took, None if it never began."""
        self.requests -= 1
        self._hosting.released.set()
        if service_s is not None:
            before_s = service_s if self._service_s is None else self._service_s
            self._service_s = before_s + NEWEST_SHARE * (service_s - before_s)

    def drained_in_s(self) -> float:
        """How long the present queue will take: requests × mean service time / how many at once."""
        if self._service_s is None:
            return 1.0
        slots = self.engine.memory().slots_total if self.engine else None
        return max(1.0, self.requests * self._service_s / max(1, min(slots or 1, self.requests)))

    # What others may know

    @property
    def verified(self) -> bool | None:
        """Whether the model passed its probe; None if it was not probed."""
        return None if self._conformance is None else self._conformance.passed

    def pulse(self) -> Pulse | None:
        """Whether its engine makes steps; None without an engine that knows."""
        engine = self.engine
        return engine.pulse() if isinstance(engine, Pulsing) else None

    def status(self) -> ModelStatus:
        """All of it as a frozen value."""
        engine, opening = self.engine, self._opening
        trouble = engine.trouble() if isinstance(engine, Supervised) else None
        return ModelStatus(
            id=self.id,
            spec=self.entry.spec,
            variant=self.variant,
            state=self._state,
            requests=self.requests,
            requests_limit=self._hosting.max_requests,
            architecture=self._architecture,
            verified=self.verified,
            verification=self._conformance.reason if self._conformance else None,
            error=trouble or self._error,
            retry_after_s=self._rest_s(),
            progress=opening.load_progress() if isinstance(opening, LoadReporting) else None,
            memory=self.engine.memory() if self.engine else None,
            load_ns=self._load_ns,
        )

    def _rest_s(self) -> float | None:
        if self._state != "failed":
            return None
        rest_s = FAILED_LOAD_REST_S - (self._hosting.clock_ns() - self._failed_at_ns) / 1e9
        return rest_s if rest_s > 0 else None


class Lease:
    """A place in a model's queue, held from admission until the answer has ended."""

    def __init__(self, hosted: HostedModel, clock_ns: Callable[[], int]) -> None:
        hosted.admit()
        self._hosted = hosted
        self._clock_ns = clock_ns
        self._ready_ns: int | None = None
        self._service_s: float | None = None
        self.load_ns: int | None = None
        """How long `ready` waited for the model to load; None if it was loaded already."""

    async def ready(self, *, load: bool = True) -> Engine:
        """The model's engine, loaded first if need be. Raises ModelNotReady."""
        engine, self.load_ns = await self._hosted.ready(load=load)
        self._ready_ns = self._clock_ns()
        return engine

    def complete(self) -> None:
        """Note that the answer came to its end: only then its time says how long answers take."""
        assert self._ready_ns is not None
        self._service_s = (self._clock_ns() - self._ready_ns) / 1e9

    @property
    def verified(self) -> bool | None:
        """Whether the model passed its conformance probe."""
        return self._hosted.verified

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._hosted.release(self._service_s)


def _summary(config: Mapping[str, Any]) -> ArchitectureSummary | None:
    """Layer counts of a `config.json`; None where there is none, or it cannot be read here."""
    try:
        layers = read_layers(config)
    except UnsupportedArchitecture:
        return None
    return ArchitectureSummary(
        model_type=str(config["model_type"]),
        layers={str(kind): count for kind, count in layers.counts().items()},
    )
