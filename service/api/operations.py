"""Health and readiness probes, metrics, runtime and memory."""

from litestar import Response, get
from msgspec import Struct

from service.api.services import Deps
from service.core.limits import MachineLimits
from service.core.runtime import Runtime
from service.serving.health import (
    DecodeHealth,
    Health,
    Readiness,
    decode_health,
    readiness,
)
from service.serving.health import (
    health as health_of,
)
from service.serving.memory.report import MemoryReport


class Alive(Struct, frozen=True, kw_only=True):
    """The event loop is running."""

    status: str = "ok"


@get("/health", summary="State of the service", tags=["operations"])
async def health(services: Deps) -> Health:
    """Always 200: a degraded model is named, and the others go on."""
    pool = services.pool
    return health_of(pool.snapshot(), draining=pool.draining, version=services.version)


@get("/health/decode", summary="Progress of the engines", tags=["operations"])
async def decoding(services: Deps) -> Response[DecodeHealth]:
    """503 while an engine that hung or died is being restarted; otherwise 200."""
    looked = ((name, hosted.liveness()) for name, hosted in services.pool.models.items())
    found = decode_health({name: liveness for name, liveness in looked if liveness is not None})
    return Response(found, status_code=503 if found.status == "stalled" else 200)


@get("/ready", summary="Readiness for requests", tags=["operations"])
async def ready(services: Deps) -> Response[Readiness]:
    """503 while draining, at startup until a model is loaded, and while nothing can be recorded."""
    pool = services.pool
    found = readiness(
        pool.snapshot(),
        services.writer_stats(),
        preload=services.settings.preload,
        draining=pool.draining,
    )
    return Response(found, status_code=200 if found.ready else 503)


@get("/livez", summary="Liveness of the process", tags=["operations"])
async def livez() -> Alive:
    """Depends on nothing: a busy engine must not get the process restarted."""
    return Alive()


@get("/metrics", summary="Prometheus metrics", tags=["operations"])
async def prometheus_metrics(services: Deps) -> Response[bytes]:
    """In the Prometheus text format, at most a second old."""
    page, content_type = await services.metrics_page()
    return Response(page, media_type=content_type)


@get("/v1/runtime", summary="Runtime of the models", tags=["operations"])
async def show_runtime(services: Deps) -> Runtime:
    """Process, threads, kernels and step times, as they are in effect."""
    return services.runtime()


class LimitsAnswer(Struct, frozen=True, kw_only=True):
    """What this machine can do at most."""

    limits: MachineLimits | None
    """Null until `triptych limits` has measured them and the service was restarted."""


@get("/v1/limits", summary="Measured limits of the machine", tags=["operations"])
async def show_limits(services: Deps) -> LimitsAnswer:
    """The rates that the shares in records refer to."""
    return LimitsAnswer(limits=services.limits)


@get("/v1/memory", summary="Memory by model and process", tags=["operations"])
async def show_memory(services: Deps) -> MemoryReport:
    """The budget, what each model holds of it, and the processes; unknown is null."""
    return await services.memory()
