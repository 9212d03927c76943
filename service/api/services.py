"""The services that routes depend on, built by the composition root."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from litestar.di import NamedDependency
from litestar.params import SkipValidation

from service.core.limits import MachineLimits
from service.core.ports import RecordSink, WriterStats
from service.core.runtime import Runtime
from service.serving.experiments.replay import ReplayService
from service.serving.experiments.service import ExperimentService
from service.serving.memory.report import MemoryReport
from service.serving.models.pool import Pool
from service.serving.records.report import Reports
from service.serving.requests.chat import ChatService
from service.serving.requests.compare import CompareService
from service.serving.routes.reports.statistics import RouteReports
from service.serving.routes.table import RouteTable
from service.serving.scores.service import ScoreService
from service.serving.votes.service import VoteService
from service.settings import Settings


@dataclass(frozen=True, kw_only=True)
class Services:
    """Dependencies of the routes."""

    settings: Settings
    pool: Pool
    chat: ChatService
    routes: RouteTable
    compare: CompareService
    scores: ScoreService
    experiments: ExperimentService
    reports: Reports
    route_reports: RouteReports
    votes: VoteService
    sink: RecordSink
    writer_stats: Callable[[], WriterStats]
    """State of the record writer."""
    metrics_page: Callable[[], Awaitable[tuple[bytes, str]]]
    """The page that Prometheus scrapes, and its content type."""
    runtime: Callable[[], Runtime]
    """What the models of this machine run on."""
    limits: MachineLimits | None
    """What this machine can do at most; None until it was measured."""
    memory: Callable[[], Awaitable[MemoryReport]]
    """Who holds how much."""
    version: str

    @property
    def replays(self) -> ReplayService:
        """Replays keep nothing of their own: experiments run them, records are their pairs."""
        return ReplayService(self.experiments, self.reports)


Deps = NamedDependency[SkipValidation[Services]]
"""How a route asks for them."""
