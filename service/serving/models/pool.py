"""Pool: all models that can be addressed, and the way in to each."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from model_registry.catalog import Catalog
from model_registry.sources import locate
from service.core.errors import ConfigError, Draining, ModelNotFound
from service.core.model_status import ModelStatus
from service.serving.gate import Gate
from service.serving.memory.device_memory import DeviceMemory
from service.serving.memory.measured import MeasuredBytes
from service.serving.models.dependencies import Hosting, Opener
from service.serving.models.engine_life import RETRY_AFTER_DRAIN_S
from service.serving.models.events import ModelChange, ModelEvents
from service.serving.models.files import Locate, Refusal, nothing_refused
from service.serving.models.hosted_model import HostedModel
from service.serving.models.lease import Lease
from service.serving.models.upkeep import Upkeep

log = logging.getLogger(__name__)

#: No budget: more than any device has.
UNLIMITED_BYTES = 2**62


class Pool:
    """Loads models on demand, once each, and admits requests to them."""

    def __init__(  # noqa: PLR0913 (what a pool needs, and choices that have defaults)
        self,
        catalog: Catalog,
        models_dir: Path,
        opener: Opener,
        gate: Gate,
        *,
        locate: Locate = locate,
        refusal: Refusal = nothing_refused,
        memory: DeviceMemory | None = None,
        measured: MeasuredBytes | None = None,
        max_queued_requests: int = 256,
        probe: bool = True,
        idle_ttl_s: float = 0.0,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._released = asyncio.Event()
        self.events = ModelEvents()
        self.memory = memory or DeviceMemory(UNLIMITED_BYTES)
        hosting = Hosting(
            locate=locate,
            refusal=refusal,
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
        self.preload: tuple[str, ...] = ()
        """Models that the start loads; `loads` of their status tells which were ever ready."""
        self._gate = gate
        self.draining = False
        self._clock_ns = clock_ns
        self.upkeep = Upkeep(
            self.models.values(), gate=gate, idle_ttl_s=idle_ttl_s, clock_ns=clock_ns
        )

    def __repr__(self) -> str:
        loaded = sum(hosted.engine is not None for hosted in self.models.values())
        return f"<Pool models={len(self.models)} loaded={loaded} requests={self.requests}>"

    @property
    def requests(self) -> int:
        """Requests that wait or run, over all models."""
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
        self.preload = tuple(preload)
        for name in preload:
            self.models[name].begin_load()
        await self.upkeep.start()

    # Status

    @property
    def statuses(self) -> Mapping[str, ModelStatus]:
        """Every model's status, made when it is looked up."""
        return _Statuses(self.models)

    def snapshot(self) -> dict[str, ModelStatus]:
        """Every model's status at this moment, from memory."""
        return dict(self.statuses)

    def status(self, name: str) -> ModelStatus:
        """Status of a model, from memory. Raises ModelNotFound."""
        return self._find(name).status()

    def changes(self) -> AsyncGenerator[ModelChange]:
        """Yield the state of every servable model, then every change."""
        return self.events.subscribe(
            lambda: [
                hosted.change("snapshot")
                for hosted in self.models.values()
                if hosted.state != "unavailable"
            ]
        )

    # Requests

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

    # Operators

    def begin_load(self, name: str) -> None:
        """Begin to load a model, if it is not loaded. Raises ModelNotFound or Draining."""
        self._open(name).begin_load()

    async def load(self, name: str) -> None:
        """Load a model; the load goes on if the caller is cancelled.

        Raises ModelNotFound, Draining, or the load's own error.
        """
        await self._open(name).load()

    async def unload(self, name: str, *, drain_s: float) -> None:
        """Unload a model; running requests get *drain_s* to end. Raises ModelNotFound."""
        hosted = self._find(name)
        hosted.begin_unload("on request", drain_s=drain_s)
        await hosted.unloaded()

    def pin(self, name: str, *, pinned: bool) -> None:
        """Keep a model loaded whatever others need, or no longer. Raises ModelNotFound."""
        self._find(name).pin(pinned=pinned)

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

    # Shutdown

    async def drain(self, timeout_s: float) -> bool:
        """Refuse newcomers and wait for running requests; False if some did not end in time."""
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
        await self.upkeep.aclose()
        await asyncio.gather(*(hosted.aclose() for hosted in self.models.values()))


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
