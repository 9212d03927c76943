"""Health and readiness: pure functions of model states, engine liveness and writer statistics."""

from collections.abc import Collection, Mapping
from typing import Final, Literal

from msgspec import Struct

from service.core.model_status import ModelStatus
from service.core.ports import Liveness, WriterStats

#: Requests are not answered unrecorded: records that wait longer than this mean a disk that hangs.
LAG_LIMIT_S: Final = 2.0


class DegradedModel(Struct, frozen=True, kw_only=True):
    """A model that cannot answer now."""

    model: str
    error: str


class Health(Struct, frozen=True, kw_only=True):
    """The state of the service."""

    status: Literal["ok", "degraded", "draining"]
    version: str
    loaded: list[str]
    loading: list[str]
    degraded: list[DegradedModel]


class Readiness(Struct, frozen=True, kw_only=True):
    """Readiness for requests, or the reason against it."""

    ready: bool
    reason: str


class DecodeHealth(Struct, frozen=True, kw_only=True):
    """Progress of the engines that hold requests."""

    status: Literal["ok", "idle", "stalled"]
    running: int
    """Requests that wait in engines or run."""
    silent_s: float | None
    """Seconds without a step of the engine that is silent longest; null while nothing runs."""
    stalled: list[str]
    """Models whose engine hung or died and is being restarted."""


def health(models: Mapping[str, ModelStatus], *, draining: bool, version: str) -> Health:
    """Loaded, loading and degraded models."""
    degraded = [
        DegradedModel(model=name, error=status.error)
        for name, status in models.items()
        if status.error and status.servable
    ]
    status: Literal["ok", "degraded", "draining"] = "degraded" if degraded else "ok"
    return Health(
        status="draining" if draining else status,
        version=version,
        loaded=[name for name, status in models.items() if status.loaded],
        loading=[name for name, status in models.items() if status.state == "loading"],
        degraded=degraded,
    )


def decode_health(engines: Mapping[str, Liveness]) -> DecodeHealth:
    """From the liveness of each engine that has one."""
    running = sum(each.running for each in engines.values())
    silences_s = [
        liveness.silent_s for liveness in engines.values() if liveness.silent_s is not None
    ]
    stalled = [name for name, each in engines.items() if each.stalled]
    working: Literal["ok", "idle"] = "ok" if running else "idle"
    return DecodeHealth(
        status="stalled" if stalled else working,
        running=running,
        silent_s=max(silences_s, default=None),
        stalled=stalled,
    )


def readiness(
    models: Mapping[str, ModelStatus],
    writer: WriterStats,
    *,
    preload: Collection[str],
    draining: bool,
) -> Readiness:
    """Ready if requests are recorded and a model answers, at once or after a load.

    While the models to preload load for the first time, none of them being loaded yet, the service
    is not ready. Later loads do not count against it: requests wait for them. Neither is it ready
    while an engine that died is being restarted and no other model is loaded.
    """
    if draining:
        return Readiness(ready=False, reason="draining")
    if not writer.healthy or writer.lag_s > LAG_LIMIT_S:
        return Readiness(ready=False, reason="requests cannot be recorded")
    return _answering(models, preload)


def _answering(models: Mapping[str, ModelStatus], preload: Collection[str]) -> Readiness:
    if any(status.loaded for status in models.values()):
        return Readiness(ready=True, reason="a model is loaded")
    first = [models[name] for name in preload if name in models]
    if any(_loads_first(status) for status in first) and not any(each.loads for each in first):
        return Readiness(ready=False, reason="the first model is loading")
    if any(_lost(status) for status in models.values()):
        return Readiness(ready=False, reason="the engine is being restarted")
    if any(_loadable(status) for status in models.values()):
        return Readiness(ready=True, reason="models load on demand")
    return Readiness(ready=False, reason="no model can be loaded")


def _loads_first(status: ModelStatus) -> bool:
    return status.state == "loading" and status.loads == 0


def _loadable(status: ModelStatus) -> bool:
    """True if a request would load it, or wait for its load."""
    return status.state in ("unloaded", "loading", "unloading") and status.error is None


def _lost(status: ModelStatus) -> bool:
    """True if its engine was running and has died or hung."""
    return status.down
