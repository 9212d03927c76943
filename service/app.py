"""The composition root: the only module that knows concrete classes."""

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

from msgspec import structs

from model_registry.catalog import Catalog, load_catalog
from model_registry.errors import RegistryError
from model_registry.spec import ResolvedModel
from service import __version__
from service.api.application import create_api
from service.api.services import Services
from service.application import Application
from service.core.errors import ConfigError
from service.core.ports import Engine, HasProcesses
from service.core.runtime import DeviceUse
from service.core.sizes import human_bytes
from service.engines import open_engine
from service.engines.servable import refusal
from service.engines.torch.host import TorchHost
from service.engines.torch.options import TorchOptions
from service.engines.vllm.command import VllmOptions
from service.serving.experiments.planning import Planning
from service.serving.experiments.service import Environment, ExperimentService
from service.serving.gate import Gate
from service.serving.memory.device_memory import DeviceMemory
from service.serving.memory.measured import MeasuredBytes
from service.serving.memory.report import MemoryReport, ProcessUse, memory_report
from service.serving.models.pool import Pool
from service.serving.records.report import Reports
from service.serving.requests.chat import ChatService
from service.serving.requests.compare import CompareService
from service.serving.requests.recorder import Recorder
from service.serving.routes.costs.crossovers import ExperimentCrossovers
from service.serving.routes.costs.curves import Curves
from service.serving.routes.reports.statistics import RouteReports
from service.serving.routes.router import Router
from service.serving.routes.table import RouteTable
from service.serving.scores.service import ScoreService
from service.serving.votes.service import VoteService
from service.settings import Settings
from service.storage import open_store
from service.storage.experiments import open_experiments
from service.storage.folder_lock import FolderLock
from service.storage.routes import open_routes
from service.storage.votes import open_vote_store
from service.storage.writer import RecordWriter
from service.telemetry.available import available
from service.telemetry.energy.choice import choose_counter
from service.telemetry.energy.meter import EnergyMeter
from service.telemetry.environment import environment
from service.telemetry.limits import read_limits
from service.telemetry.memory import MemoryProbes
from service.telemetry.prometheus import PrometheusMetrics

#: Share of the memory free at startup that models may use; the rest is for the processes
#: themselves, for the transient needs of a load, and for other programs.
FREE_SHARE = 0.8

log = logging.getLogger(__name__)


def create_application(settings: Settings) -> Application:
    """Build the service. Raises ConfigError naming file, key and fix."""
    data_dir = _data_dir(settings)
    lock = FolderLock(data_dir)
    database = f"sqlite:///{(data_dir / 'records.db').resolve()}"
    store, experiment_store = open_store(database), open_experiments(database)
    writer = RecordWriter(store)
    budget, compare = _budget(settings), settings.compare
    torch_host = _torch_host(settings, data_dir, budget.budget_bytes)
    gate = Gate(max_stall_s=compare.max_stall_s, max_share=compare.max_share)
    device_memory = DeviceMemory(budget.budget_bytes, max_waiting=settings.max_waiting_for_memory)
    device_memory.on_free = torch_host.prefix_cache.spare
    pool = Pool(
        _catalog(settings),
        data_dir / "models",
        _opener(settings, data_dir, torch_host),
        gate,
        refusal=partial(refusal, vllm_python=settings.vllm.python),
        max_queued_requests=settings.max_queued_requests,
        memory=device_memory,
        measured=MeasuredBytes(data_dir / "measured-memory.json"),
        probe=settings.probe,
        idle_ttl_s=settings.idle_ttl_s,
    )
    probes = MemoryProbes(lambda: processes((torch_host, *_engines(pool))))
    metrics = PrometheusMetrics(
        models=lambda: pool.snapshot().values(),
        writer=writer.stats,
        processes=probes.read,
        memory=lambda: (device_memory.budget_bytes, device_memory.used_bytes),
        prefix_cache=lambda: torch_host.prefix_cache.use,
    )
    curves = Curves()
    recorder = Recorder(
        writer,
        [metrics, curves],
        energy=_energy_meter(settings, budget.device.name),
        store_content=settings.store_content == "full",
    )
    route_store, crossovers = open_routes(database), ExperimentCrossovers(experiment_store)
    routes = RouteTable(
        settings.routes, pool.models, route_store, crossovers=crossovers, prepare=curves.prepare
    )
    router = Router(routes, lambda: pool.statuses, curves=curves, crossovers=crossovers)
    chat = ChatService(pool, recorder, gate, router)
    limits = read_limits(data_dir)
    reports = Reports(store, writer, limits)
    route_reports = RouteReports(store, writer)
    votes = VoteService(open_vote_store(database), reports)
    scores = ScoreService(chat)
    experiments = ExperimentService(
        chat,
        experiment_store,
        Planning(
            pool,
            routes=tuple(settings.routes),
            max_answer_tokens=settings.max_answer_tokens,
            records=reports,
        ),
        scores=scores,
        environment=_environment(torch_host),
        max_wait_s=compare.max_wait_s,
        enabled=compare.enabled,
    )
    services = Services(
        settings=settings,
        pool=pool,
        chat=chat,
        routes=routes,
        compare=CompareService(chat, enabled=compare.enabled, max_wait_s=compare.max_wait_s),
        scores=scores,
        experiments=experiments,
        reports=reports,
        route_reports=route_reports,
        votes=votes,
        sink=writer,
        writer_stats=writer.stats,
        metrics_page=metrics.page,
        runtime=lambda: torch_host.runtime,
        limits=limits,
        memory=_memory_reporter(device_memory, pool, probes, torch_host, budget),
        version=__version__,
    )
    return Application(
        settings=settings,
        api=create_api(services),
        pool=pool,
        chat=chat,
        torch_host=torch_host,
        writer=writer,
        store=store,
        routes=routes,
        route_store=route_store,
        route_reports=route_reports,
        curves=curves,
        reports=reports,
        votes=votes,
        experiments=experiments,
        experiment_store=experiment_store,
        lock=lock,
    )


def _data_dir(settings: Settings) -> Path:
    """The data folder, created if missing. Raises ConfigError."""
    data_dir = Path(settings.data_dir)
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"data folder {data_dir}: {error.strerror}; use --data-dir") from error
    return data_dir


def _catalog(settings: Settings) -> Catalog:
    try:
        return load_catalog([Path(folder) for folder in settings.models])
    except RegistryError as error:
        raise ConfigError(str(error)) from error


# Engines


def _torch_host(settings: Settings, data_dir: Path, budget_bytes: int) -> TorchHost:
    return TorchHost(
        TorchOptions(
            data_dir=data_dir,
            slots=settings.slots,
            prefill_chunk_tokens=settings.prefill_chunk_tokens,
            max_answer_tokens=settings.max_answer_tokens,
            stall_s=settings.stall_s,
            prefix_cache_bytes=settings.prefix_cache.bytes_of(budget_bytes),
            **structs.asdict(settings.torch),
        )
    )


def _opener(
    settings: Settings, data_dir: Path, torch_host: TorchHost
) -> Callable[[ResolvedModel], Engine]:
    """Creates the engine of a model."""
    vllm = VllmOptions(
        data_dir=data_dir,
        slots=settings.slots,
        max_answer_tokens=settings.max_answer_tokens,
        stall_s=settings.stall_s,
        **structs.asdict(settings.vllm),
    )

    def opener(model: ResolvedModel) -> Engine:
        return open_engine(
            model,
            torch_host=torch_host,
            vllm=vllm,
            max_answer_tokens=settings.max_answer_tokens,
        )

    return opener


def _energy_meter(settings: Settings, device: str) -> EnergyMeter | None:
    """The meter of the device that holds models; None where energy is neither counted nor stated.

    A counter that cannot be read is told once, at startup.
    """
    chosen = choose_counter(device=device, watts=settings.power.watts)
    if chosen.reason is not None:
        log.info(
            "energy of requests is %s: %s",
            "estimated from power.watts" if chosen.counter else "not measured",
            chosen.reason,
        )
    return None if chosen.counter is None else EnergyMeter(chosen.counter)


# Memory


class _Budget(NamedTuple):
    device: DeviceUse
    budget_bytes: int


def _budget(settings: Settings) -> _Budget:
    """The device that holds models, and its memory budget: as set, or a share of what is free."""
    found = available()
    wanted = settings.memory_budget_bytes
    budget = _Budget(DeviceUse(name=found.device), wanted or int(found.free_bytes * FREE_SHARE))
    log.info(
        "models may hold %s of the %s that are free on %s%s",
        human_bytes(budget.budget_bytes),
        human_bytes(found.free_bytes),
        found.device,
        "" if wanted else " (memory_budget = auto)",
    )
    return budget


def _engines(pool: Pool) -> list[Engine]:
    engines = (hosted.engine for hosted in list(pool.models.values()))
    return [engine for engine in engines if engine is not None]


def processes(owners: Iterable[object]) -> Mapping[str, int]:
    """Process ids by name: this process, and those of all owners that have any."""
    found = {"service": os.getpid()}
    for owner in owners:
        if isinstance(owner, HasProcesses):
            found |= owner.processes()
    return found


def _memory_reporter(
    device_memory: DeviceMemory,
    pool: Pool,
    probes: MemoryProbes,
    torch_host: TorchHost,
    budget: _Budget,
) -> Callable[[], Awaitable[MemoryReport]]:
    """Create the reporter of memory by model and process."""

    async def report() -> MemoryReport:
        found = await asyncio.to_thread(probes.read)  # it walks all pages of each process
        uses = [
            ProcessUse(name=name, pid=one.pid, rss_bytes=one.rss_bytes, pss_bytes=one.pss_bytes)
            for name, one in found.items()
        ]
        return memory_report(
            device_memory,
            pool.snapshot().values(),
            uses,
            torch_host.device_use or budget.device,
            torch_host.prefix_cache.use,
        )

    return report


def _environment(torch_host: TorchHost) -> Environment:
    """What experiments note about the machine and the service."""

    async def read() -> Mapping[str, object]:
        machine = await asyncio.to_thread(environment)
        runtime = structs.asdict(torch_host.runtime)
        models = [structs.asdict(each) for each in torch_host.runtime.models]
        return machine | {"triptych": __version__, "runtime": runtime | {"models": models}}

    return read
