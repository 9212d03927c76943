"""All models that can be addressed: which are loaded, how busy they are, and a place in a queue."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from model_registry.catalog import Catalog
from model_registry.sources import locate
from service.core.errors import ConfigError, Draining, ModelNotFound, ModelNotReady, TriptychError
from service.serving.gate import Gate
from service.serving.hosted import HostedModel, Hosting, Lease, Locate, Opener
from service.serving.status import ModelStatus

log = logging.getLogger(__name__)

#: How often the pool looks for files that were not here: `models pull` runs in another process.
LOOK_EVERY_S = 15.0
#: How long a start waits for the first look; hashing large new files goes on behind it.
FIRST_LOOK_S = 2.0
#: When to try again while the service shuts down: long enough for another to take over.
RETRY_AFTER_DRAIN_S = 5.0


class Pool:
    """Opens engines on demand, once each, and admits requests to them."""

    def __init__(
        self,
        catalog: Catalog,
        models_dir: Path,
        opener: Opener,
        gate: Gate,
        *,
        locate: Locate = locate,
        max_queued_requests: int = 256,
        probe: bool = True,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._released = asyncio.Event()
        hosting = Hosting(
            locate=locate,
            models_dir=models_dir,
            opener=opener,
            gate=gate,
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
        self._looked = asyncio.Event()
        self._looking: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        loaded = sum(hosted.engine is not None for hosted in self.models.values())
        return f"<Pool models={len(self.models)} loaded={loaded} requests={self.requests}>"

    @property
    def requests(self) -> int:
        """How many requests wait or run, over all models."""
        return sum(hosted.requests for hosted in self.models.values())

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
            self.models[name].begin_load()
        self._looking = asyncio.create_task(self._keep_looking(), name="look for model files")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FIRST_LOOK_S):
                await self._looked.wait()

    async def _keep_looking(self) -> None:
        while True:
            for hosted in self.models.values():
                if hosted.engine is None:
                    _, error = await asyncio.to_thread(hosted.look)
                    hosted.looked(error)
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
        hosted = self._find(name)
        if self.draining:
            raise Draining("the service is shutting down", retry_after_s=RETRY_AFTER_DRAIN_S)
        return Lease(hosted, self._clock_ns)

    async def load(self, name: str) -> None:
        """Have a model loaded; one that cannot be, or does not exist, is left to `admit`."""
        if name in self.models and not self.draining:
            with contextlib.suppress(ModelNotReady):
                await self.models[name].ready()

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
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait([self._looking])
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
