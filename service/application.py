"""Application: the running service; starts and ends its parts in order."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from litestar.types import ASGIApp

from service.core.errors import ConfigError, StoreUnavailable
from service.core.experiments.ports import ExperimentStore
from service.core.ports import RecordStore
from service.core.routes.stored import RouteStore
from service.engines.torch.host import TorchHost
from service.serving.experiments.service import ExperimentService
from service.serving.models.pool import Pool
from service.serving.records.report import Reports
from service.serving.requests.chat import ChatService
from service.serving.routes.costs.curves import Curves, latest_answers
from service.serving.routes.reports.statistics import RouteReports
from service.serving.routes.table import RouteTable
from service.serving.votes.service import VoteService
from service.settings import Settings
from service.storage.folder_lock import FolderLock
from service.storage.writer import RecordWriter

#: How long interrupted requests get to tell their clients, in seconds.
ABORT_S = 2.0

#: How long the torch host gets at shutdown to unload its models before it is ended, in seconds.
UNLOAD_S = 5.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Application:
    """The service and its parts, built but not yet running."""

    settings: Settings
    api: ASGIApp
    pool: Pool
    chat: ChatService
    torch_host: TorchHost
    writer: RecordWriter
    store: RecordStore
    routes: RouteTable
    route_store: RouteStore
    route_reports: RouteReports
    curves: Curves
    reports: Reports
    votes: VoteService
    experiments: ExperimentService
    experiment_store: ExperimentStore
    lock: FolderLock

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Recover records, begin to load models; at the end close engines, then the records."""
        try:
            orphans = self.writer.start()
        except StoreUnavailable as error:
            raise ConfigError(
                f"{self.settings.data_dir}/records.db: {error} If the file is damaged, move it "
                "away to start with an empty one, or restore a backup"
            ) from error
        if orphans:
            log.warning("%d requests were interrupted when the service last stopped", orphans)
        learning: asyncio.Task[None] | None = None
        try:
            await self.pool.start(self.settings.preload)
            await self.experiments.start()
            learning = asyncio.create_task(self._learn(), name="learn from records")
            yield
        finally:
            await self.experiments.aclose()
            if learning is not None:
                await learning
            await self.chat.shadows.aclose()
            await self._close_engines()
            self.reports.close()
            self.route_reports.close()
            self.votes.close()
            lost = self.writer.close()
            self.experiment_store.close()
            self.store.close()
            self.route_store.close()
            self.lock.close()
            if lost:
                log.error("%d records could not be written", lost)

    async def _learn(self) -> None:
        """Let the curves of routes know what was measured before this start."""
        try:
            for route in tuple(self.routes.values()):
                await asyncio.to_thread(self.curves.prepare, route)
            self.curves.learn(await asyncio.to_thread(latest_answers, self.store))
        except StoreUnavailable as error:
            log.warning("routes know nothing of earlier requests: %s", error)

    async def _close_engines(self) -> None:
        """Unload all models; a torch host that does not unload its own in time is ended.

        Again is harmless.
        """
        unloading = asyncio.create_task(self.pool.aclose(), name="unload all models")
        await asyncio.wait([unloading], timeout=UNLOAD_S)
        await self.torch_host.aclose()
        await unloading

    async def drain(self) -> None:
        """Admit no more requests, and give those that run `drain_s` to end; shadows end now."""
        self.chat.shadows.close()
        await self.pool.drain(self.settings.drain_s)

    async def abort(self) -> None:
        """Interrupt what is left, requests and loads alike; their clients are told."""
        if self.pool.requests:
            log.warning("%d requests are interrupted by the shutdown", self.pool.requests)
        self.chat.interrupt()
        await self.experiments.stop()
        await self.pool.drain(ABORT_S)
        await self._close_engines()
