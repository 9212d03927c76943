"""Is it alive, can it answer, what does it cost: for probes and scrapers."""

import asyncio
from typing import Literal

from litestar import Response, get
from msgspec import Struct

from service.api.services import Deps
from service.core.errors import StoreUnavailable
from service.core.ports import RecordSink
from service.core.runtime import Runtime
from service.serving.memory.report import MemoryReport
from service.serving.models.pool import Pool

#: A disk that takes longer than this for one write makes the service not ready.
FLUSH_LIMIT_S = 2.0


class Trouble(Struct, frozen=True, kw_only=True):
    """A model that cannot answer now."""

    model: str
    error: str


class Health(Struct, frozen=True, kw_only=True):
    """How the service is."""

    status: Literal["ok", "degraded", "draining"]
    version: str
    loaded: list[str]
    loading: list[str]
    troubles: list[Trouble]


class Readiness(Struct, frozen=True, kw_only=True):
    """Whether requests should be sent here."""

    ready: bool
    reason: str


class DecodeHealth(Struct, frozen=True, kw_only=True):
    """Whether engines make steps for the requests that they hold."""

    status: Literal["ok", "idle", "stalled"]
    running: int
    """Requests that wait in engines or run."""
    silent_s: float | None
    """Seconds without a step of the engine that is silent longest; null while nothing runs."""
    stalled: list[str]
    """Models whose engine hung or died and is being started again."""


class Alive(Struct, frozen=True, kw_only=True):
    """The event loop turns."""

    status: Literal["ok"] = "ok"


@get("/health", summary="How the service is", tags=["operations"])
async def health(services: Deps) -> Health:
    """Always 200: a model in trouble is named, and the others go on."""
    models = services.pool.snapshot()
    troubles = [
        Trouble(model=name, error=status.error)
        for name, status in models.items()
        if status.error and status.servable
    ]
    status: Literal["ok", "degraded", "draining"] = "degraded" if troubles else "ok"
    return Health(
        status="draining" if services.pool.draining else status,
        version=services.version,
        loaded=[name for name, status in models.items() if status.loaded],
        loading=[name for name, status in models.items() if status.state == "loading"],
        troubles=troubles,
    )


@get("/health/decode", summary="Whether engines make steps", tags=["operations"])
async def decoding(services: Deps) -> Response[DecodeHealth]:
    """503 while an engine that hung or died is being started again; 200 if all step or rest."""
    found = decode_health(services.pool)
    return Response(found, status_code=503 if found.status == "stalled" else 200)


@get("/ready", summary="Whether requests should be sent here", tags=["operations"])
async def ready(services: Deps) -> Response[Readiness]:
    """503 while draining, until a first model can answer, and while nothing can be recorded."""
    found = readiness(services.pool)
    if found.ready and not await _recording(services.sink):
        found = Readiness(ready=False, reason="requests cannot be recorded")
    return Response(found, status_code=200 if found.ready else 503)


@get("/livez", summary="Whether the process is alive", tags=["operations"])
async def livez() -> Alive:
    """Touches nothing: a busy engine must not get the process restarted."""
    return Alive()


@get("/metrics", summary="Prometheus metrics", tags=["operations"])
async def prometheus_metrics(services: Deps) -> Response[bytes]:
    """In the Prometheus text format, at most a second old."""
    page, content_type = await services.metrics_page()
    return Response(page, media_type=content_type)


@get("/v1/runtime", summary="What models run on", tags=["operations"])
async def show_runtime(services: Deps) -> Runtime:
    """Process, threads, kernels and step times: what was chosen, not what was asked for."""
    return services.runtime()


async def _recording(sink: RecordSink) -> bool:
    try:
        async with asyncio.timeout(FLUSH_LIMIT_S):
            await sink.flushed()
    except (StoreUnavailable, TimeoutError):
        return False
    return True


def decode_health(pool: Pool) -> DecodeHealth:
    """From what the engines of loaded models know."""
    looked = ((name, hosted.liveness()) for name, hosted in pool.models.items())
    found = {name: liveness for name, liveness in looked if liveness is not None}
    running = sum(each.running for each in found.values())
    silences_s = [each.silent_s for each in found.values() if each.silent_s is not None]
    stalled = [name for name, each in found.items() if each.stalled]
    working: Literal["ok", "idle"] = "ok" if running else "idle"
    return DecodeHealth(
        status="stalled" if stalled else working,
        running=running,
        silent_s=max(silences_s, default=None),
        stalled=stalled,
    )


def readiness(pool: Pool) -> Readiness:
    """Ready with a loaded model, or with none while models load only when they are asked for."""
    models = pool.snapshot().values()
    if pool.draining:
        return Readiness(ready=False, reason="draining")
    if any(status.loaded for status in models):
        return Readiness(ready=True, reason="a model is loaded")
    if any(status.state == "loading" for status in models):
        return Readiness(ready=False, reason="the first model is loading")
    if any(status.state == "unloaded" for status in models):
        return Readiness(ready=True, reason="models load when they are asked for")
    return Readiness(ready=False, reason="no model can be loaded")


@get("/v1/memory", summary="Who holds how much memory", tags=["operations"])
async def show_memory(services: Deps) -> MemoryReport:
    """The budget, what each model holds of it, and the processes; unknown is null."""
    return await services.memory()
