"""All models that can be addressed: which are loaded, how busy they are, and a place in a queue."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from model_registry.catalog import Catalog
from model_registry.sources import locate
from service.core.errors import ConfigError, Draining, ModelNotFound, TriptychError
from service.core.model_status import ModelStatus
from service.serving.gate import Gate
from service.serving.memory.device_memory import DeviceMemory
from service.serving.memory.measured import MeasuredBytes
from service.serving.models.dependencies import Hosting, Opener
from service.serving.models.events import ModelChange, ModelEvents
from service.serving.models.files import Locate
from service.serving.models.hosted_model import HostedModel
from service.serving.models.lease import Lease

log = logging.getLogger(__name__)

#: How often the pool looks for files that were not here: `models pull` runs in another process.
LOOK_EVERY_S = 15.0
#: How long a start waits for the first look; hashing large new files goes on behind it.
FIRST_LOOK_S = 2.0
#: How often idle models are looked for at least, where they are unloaded.
REST_LOOK_S = 15.0
#: No budget: more than any device has.
UNLIMITED_BYTES = 2**62
#: When to try again while the service shuts down: long enough for another to take over.
RETRY_AFTER_DRAIN_S = 5.0


class Pool:
    """Opens engines on demand, once each, and admits requests to them."""

    def __init__(  # noqa: PLR0913 (what a pool needs, and seven choices that have defaults)
        self,
        catalog: Catalog,
        models_dir: Path,
        opener: Opener,
        gate: Gate,
        *,
        locate: Locate = locate,
        memory: DeviceMemory | None = None,
        measured: MeasuredBytes | None = None,
        max_queued_requests: int = 256,
        probe: bool = True,
        idle_ttl_s: float = 0.0,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._released = asyncio.Event()
        self._gate = gate
        self.events = ModelEvents()
        self.memory = memory or DeviceMemory(UNLIMITED_BYTES)
        hosting = Hosting(
            locate=locate,
            models_dir=models_dir,
            opener=opener,
            gate=gate,
            memory=self.memory,
            measured=measured or MeasuredBytes(),
            events=self.events,
            max_requests=max_queued_requests,
            probe=probe,
            released=self._released,
            clock_ns=clock_ns,
        )
        self.models: Mapping[str, HostedModel] = MappingProxyType(
            {
                hosted.id: hosted
                for entry in catalog.entries.values()
                for variant in (None, *entry.spec.variants)
                for hosted in (HostedModel(entry, variant, hosting),)
            }
        )
        self.draining = False
        self._clock_ns = clock_ns
        self._idle_ttl_s = idle_ttl_s
        self._resting: asyncio.Task[None] | None = None
        self._looked = asyncio.Event()
        self._looking: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        loaded = sum(hosted.engine is not None for hosted in self.models.values())
        return f"<Pool models={len(self.models)} loaded={loaded} requests={self.requests}>"

    @property
    def requests(self) -> int:
        """How many requests wait or run, over all models."""
        return sum(hosted.queue.requests for hosted in self.models.values())

    async def start(self, preload: Sequence[str] = ()) -> None:
        """Begin to load *preload* in the background and to look for files.

        Returns within about two seconds, whatever the files. Raises ConfigError for a model to
        preload that the catalogue does not have.
        """
        unknown = [name for name in preload if name not in self.models]
        if unknown:
            raise ConfigError(
                f"`preload` names {', '.join(unknown)}, which the catalogue does not have; "
                "see `triptych models list`"
            )
        for name in preload:
            self.models[name].begin_load(wanted=True)
        if self._idle_ttl_s:
            self._resting = asyncio.create_task(self._keep_unloading(), name="unload idle models")
        self._looking = asyncio.create_task(self._keep_looking(), name="look for model files")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FIRST_LOOK_S):
                await self._looked.wait()

    async def _keep_looking(self) -> None:
        while True:
            for hosted in self.models.values():
                if hosted.engine is None:
                    async with self._gate.background():  # large new files are hashed
                        found = await asyncio.to_thread(hosted.files.look)
                    hosted.looked(str(found) if isinstance(found, TriptychError) else None)
            self._looked.set()
            await asyncio.sleep(LOOK_EVERY_S)

    @property
    def statuses(self) -> Mapping[str, ModelStatus]:
        """Every model's status, made when it is looked at."""
        return _Statuses(self.models)

    def snapshot(self) -> dict[str, ModelStatus]:
        """Every model's status at this moment, from memory."""
        return dict(self.statuses)

    def status(self, name: str) -> ModelStatus:
        """One model's status, from memory. Raises ModelNotFound."""
        return self._find(name).status()

    def admit(self, name: str) -> Lease:
        """A place in a model's queue, to be used as a context.

        Raises:
            ModelNotFound: no such model.
            Overloaded: its queue is full.
            Draining: the service is shutting down.
        """
        return Lease(self._open(name), self._clock_ns)

    async def check_together(self, names: Sequence[str]) -> None:
        """Raise DoesNotFit unless these models could all be loaded at once."""
        hosted = [self.models[name] for name in dict.fromkeys(names) if name in self.models]
        async with self._gate.background():
            needs = {one.id: await asyncio.to_thread(one.need_bytes) for one in hosted}
        pinned = frozenset(one.id for one in self.models.values() if one.pinned)
        self.memory.check_together(needs, pinned)

    # What operators ask for

    def begin_load(self, name: str) -> None:
        """Begin to load a model, if it is not loaded. Raises ModelNotFound or Draining."""
        self._open(name).begin_load(wanted=True)

    async def load(self, name: str) -> None:
        """Load a model. Raises ModelNotReady, DoesNotFit and as `begin_load`."""
        outcome = await asyncio.shield(self._open(name).begin_load(wanted=True))
        if isinstance(outcome, TriptychError):
            raise outcome

    async def unload(self, name: str, *, drain_s: float) -> None:
        """Unload a model; requests that run get *drain_s* to end. Raises ModelNotFound."""
        hosted = self._find(name)
        hosted.begin_unload("as it was asked for", drain_s=drain_s)
        await hosted.unloaded()

    def pin(self, name: str, *, pinned: bool) -> None:
        """Keep a model whatever others need, or no longer. Raises ModelNotFound."""
        self._find(name).pin(pinned=pinned)

    def changes(self) -> AsyncGenerator[ModelChange]:
        """How all models stand, then everything that becomes of them."""
        return self.events.subscribe(
            lambda: [
                hosted.standing("snapshot")
                for hosted in self.models.values()
                if hosted.status().servable
            ]
        )

    def unload_idle(self) -> None:
        """Unload the models that nobody has used for as long as the settings say."""
        now_ns = self._clock_ns()
        for hosted in self.models.values():
            used_ns = hosted.last_used_ns or 0
            rested = (now_ns - used_ns) / 1e9 >= self._idle_ttl_s
            if rested and hosted.idle and not hosted.pinned:
                hosted.begin_unload("since nobody used it")

    async def _keep_unloading(self) -> None:
        while True:
            await asyncio.sleep(min(self._idle_ttl_s / 4, REST_LOOK_S))
            self.unload_idle()

    def _open(self, name: str) -> HostedModel:
        hosted = self._find(name)
        if self.draining:
            raise Draining("the service is shutting down", retry_after_s=RETRY_AFTER_DRAIN_S)
        return hosted

    def _find(self, name: str) -> HostedModel:
        if name not in self.models:
            raise ModelNotFound(
                f"The model `{name}` does not exist; see GET /v1/models.", param="model"
            )
        return self.models[name]

    async def drain(self, timeout_s: float) -> bool:
        """Admit nobody any more and wait for those who run; whether all of them ended in time."""
        self.draining = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self.requests:
                    self._released.clear()
                    await self._released.wait()
        return not self.requests

    async def aclose(self) -> None:
        """Close every engine; requests that still run fail."""
        self.draining = True
        for task in (self._looking, self._resting):
            if task is not None:
                task.cancel()
                await asyncio.wait([task])
        for hosted in self.models.values():
            try:
                await hosted.aclose()
            except TriptychError:
                log.exception("closing %s failed", hosted.id)


class _Statuses(Mapping[str, ModelStatus]):
    def __init__(self, models: Mapping[str, HostedModel]) -> None:
        self._models = models

    def __getitem__(self, name: str) -> ModelStatus:
        return self._models[name].status()

    def __contains__(self, name: object) -> bool:
        return name in self._models

    def __iter__(self) -> Iterator[str]:
        return iter(self._models)

    def __len__(self) -> int:
        return len(self._models)
