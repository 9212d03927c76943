"""Prometheus metrics, named like vLLM's so that its dashboards need only a different prefix."""

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import get_args

from msgspec import structs
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from service.core.metrics import RequestMetrics
from service.core.model_status import LoadState, ModelStatus
from service.core.ports import WriterStats
from service.core.process_memory import ProcessMemory
from service.core.record import RequestRecord
from service.core.runtime import PrefixCacheUse

_MAX_AGE_NS = 1_000_000_000
#: From a fast model on a GPU to a slow one on two cores; in seconds.
_LATENCY_S = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 640,
)  # fmt: skip
#: 4 KiB to 64 GiB.
_STATE_BYTES = tuple(4096 * 4**power for power in range(13))

_TIMES = {
    "ttft_ms": (
        "time_to_first_token_seconds",
        "Time from acceptance to the first token.",
    ),
    "tpot_ms": ("time_per_output_token_seconds", "Mean time per token after the first."),
    "e2e_ms": ("e2e_request_latency_seconds", "Time from acceptance to the last token."),
    "queue_ms": (
        "request_queue_time_seconds",
        "Time from the queue to the first prefill step.",
    ),
    "prefill_ms": (
        "request_prefill_time_seconds",
        "Time from prefill to the first token.",
    ),
    "decode_ms": ("request_decode_time_seconds", "Time from the first token to the last."),
}
_COUNTS = {
    "prompt_tokens": ("prompt_tokens", "Prompt tokens of finished requests."),
    "cached_tokens": ("prompt_tokens_cached", "Prompt tokens whose state was reused from a cache."),
    "completion_bytes": ("generation_bytes", "UTF-8 bytes of generated text."),
}


class PrometheusMetrics:
    """Request observer that counts requests and reads all other state at each scrape."""

    def __init__(
        self,
        *,
        models: Callable[[], Iterable[ModelStatus]] = tuple,
        writer: Callable[[], WriterStats] | None = None,
        processes: Callable[[], Mapping[str, ProcessMemory]] = dict,
        memory: Callable[[], tuple[int, int]] | None = None,
        prefix_cache: Callable[[], PrefixCacheUse | None] = lambda: None,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """Use a registry of its own; the arguments are called at each scrape."""
        self._registry = CollectorRegistry()
        self._requests = self._counter("requests", "Finished requests.", "model", "status")
        self._in_flight = Gauge(
            "triptych_requests_in_flight",
            "Requests that are accepted and not finished.",
            registry=self._registry,
        )
        self._tokens = self._counter(
            "generation_tokens", "Tokens generated, including running requests.", "model"
        )
        self._counts = {
            field: self._counter(name, text, "model") for field, (name, text) in _COUNTS.items()
        }
        self._times = {
            field: self._histogram(name, text, _LATENCY_S, "model")
            for field, (name, text) in _TIMES.items()
        }
        self._state = self._histogram(
            "request_state_bytes",
            "State of a request at its end.",
            _STATE_BYTES,
            "model",
            "kind",
        )
        self._energy = self._counter(
            "request_energy_joules",
            "Energy of requests, by its source: a counter, or an estimate from power.watts.",
            "model",
            "source",
        )
        self._snapshot = _Snapshot(models, writer, processes, memory, prefix_cache)
        self._registry.register(self._snapshot)
        self._rendering = asyncio.Lock()
        self._page = b""
        self._rendered_ns: int | None = None
        self._clock_ns = clock_ns

    def started(self, record: RequestRecord) -> None:  # noqa: ARG002 - the model is not known yet
        """Count an accepted request."""
        self._in_flight.inc()

    def generated(self, record: RequestRecord, tokens: int) -> None:
        """Count tokens as they are generated, not only at the end of an answer."""
        self._tokens.labels(_model_of(record)).inc(tokens)

    def finished(self, record: RequestRecord, metrics: RequestMetrics) -> None:
        """Count a finished request; its times and state only if it was answered completely."""
        model = _model_of(record)
        self._in_flight.dec()
        self._requests.labels(model, record.status).inc()
        for field, counter in self._counts.items():
            counter.labels(model).inc(getattr(record, field) or 0)
        if record.energy.energy_uj is not None and record.energy.energy_source is not None:
            spent = self._energy.labels(model, record.energy.energy_source)
            spent.inc(record.energy.energy_uj / 1e6)
        if record.status == "ok":
            self._observe(model, record, metrics)

    async def page(self) -> tuple[bytes, str]:
        """The page that Prometheus scrapes, at most a second old, and its content type.

        Rendered in a thread, where the memory of processes is read too: the kernel walks all pages
        of a process for it, milliseconds for each GiB.
        """
        async with self._rendering:
            now_ns = self._clock_ns()
            if self._rendered_ns is None or now_ns - self._rendered_ns >= _MAX_AGE_NS:
                self._snapshot.take()
                self._page = await asyncio.to_thread(generate_latest, self._registry)
                self._rendered_ns = now_ns
        return self._page, CONTENT_TYPE_LATEST

    def _observe(self, model: str, record: RequestRecord, metrics: RequestMetrics) -> None:
        for field, histogram in self._times.items():
            milliseconds = getattr(metrics, field)
            if milliseconds is not None:
                histogram.labels(model).observe(milliseconds / 1e3)
        for field, count in structs.asdict(record.state).items():
            if count is not None:
                self._state.labels(model, field.removesuffix("_bytes")).observe(count)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"triptych_{name}", text, labels, registry=self._registry)

    def _histogram(
        self, name: str, text: str, buckets: tuple[float, ...], *labels: str
    ) -> Histogram:
        return Histogram(f"triptych_{name}", text, labels, buckets=buckets, registry=self._registry)


def _model_of(record: RequestRecord) -> str:
    """Id of the model that answers; client-given names would let anyone fill the registry."""
    model = record.model or ""
    return f"{model}:{record.variant}" if record.variant else model


class _Snapshot(Collector):
    """State at a scrape: `take` reads the event loop's, rendering that of processes."""

    def __init__(
        self,
        models: Callable[[], Iterable[ModelStatus]],
        writer: Callable[[], WriterStats] | None,
        processes: Callable[[], Mapping[str, ProcessMemory]],
        memory: Callable[[], tuple[int, int]] | None,
        prefix_cache: Callable[[], PrefixCacheUse | None],
    ) -> None:
        self._read_models = models
        self._read_writer = writer
        self._read_processes = processes
        self._read_memory = memory
        self._read_prefix_cache = prefix_cache
        self._prefix_cache: PrefixCacheUse | None = None
        self._models: list[ModelStatus] = []
        self._writer: WriterStats | None = None
        self._memory: tuple[int, int] | None = None

    def take(self) -> None:
        """Read the state that belongs to the event loop; call it there."""
        self._models = list(self._read_models())
        self._writer = None if self._read_writer is None else self._read_writer()
        self._memory = None if self._read_memory is None else self._read_memory()
        self._prefix_cache = self._read_prefix_cache()

    def describe(self) -> Iterable[Metric]:
        """Describe nothing: a registry must not call its sources while it is built."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Samples of the models, the writer and the processes."""
        yield from _of_models(self._models)
        if self._writer is not None:
            yield from _of_writer(self._writer)
        yield from _of_processes(self._read_processes())
        if self._memory is not None:
            yield from _of_memory(*self._memory)
        if self._prefix_cache is not None:
            yield from _of_prefix_cache(self._prefix_cache)


def _of_models(models: list[ModelStatus]) -> Iterator[Metric]:
    state = _gauge(
        "model_state", "1 for the model's current state, 0 for others.", "model", "state"
    )
    running = _gauge("num_requests_running", "Requests that hold a slot.", "model")
    waiting = _gauge("num_requests_waiting", "Requests that wait for a slot.", "model")
    usage = _gauge("kv_cache_usage_perc", "Fraction of slots in use, 0 to 1.", "model")
    held = _gauge("model_memory_bytes", "Memory of a loaded model, by kind.", "model", "kind")
    pinned = _gauge("model_pinned", "1 if the model is pinned: never evicted.", "model")
    loads = _counts("loads", "Loads of the model.", "model")
    evictions = _counts("evictions", "Evictions of the model.", "model")
    for model in models:
        pinned.add_metric([model.id], float(model.pinned))
        loads.add_metric([model.id], model.loads)
        evictions.add_metric([model.id], model.evictions)
        for name in get_args(LoadState):
            state.add_metric([model.id, name], float(model.state == name))
        if model.memory is None:
            continue
        used, total = model.memory.slots_used, model.memory.slots_total
        if used is not None:
            running.add_metric([model.id], used)
            waiting.add_metric([model.id], max(0, model.requests - used))
        if used is not None and total:
            usage.add_metric([model.id], used / total)
        for kind in ("weights", "slots", "snapshots", "workspace"):
            count = getattr(model.memory, f"{kind}_bytes")
            if count is not None:
                held.add_metric([model.id, kind], count)
    yield from (state, running, waiting, usage, held, pinned, loads, evictions)


def _of_writer(stats: WriterStats) -> Iterator[Metric]:
    gauges = {
        "log_healthy": (float(stats.healthy), "1 while records can be written to disk."),
        "log_queue_rows": (stats.queued_rows, "Records not yet on disk."),
        "log_queue_bytes": (stats.queued_bytes, "Estimated memory of records not yet on disk."),
        "log_lag_seconds": (stats.lag_s, "Age of the oldest record not yet on disk."),
    }
    counters = {
        "log_rows": (stats.written_rows, "Records written."),
        "log_write_seconds": (stats.write_s, "Time spent writing records."),
        "log_failed_writes": (stats.failed_writes, "Failed writes, which are retried."),
        "log_refused_rows": (
            stats.refused_rows,
            "Requests refused with the queue full.",
        ),
        "log_unwritable_rows": (stats.unwritable_rows, "Records that could not be stored at all."),
    }
    for name, (value, text) in gauges.items():
        yield GaugeMetricFamily(f"triptych_{name}", text, value=value)
    for name, (value, text) in counters.items():
        yield CounterMetricFamily(f"triptych_{name}", text, value=value)


def _of_processes(processes: Mapping[str, ProcessMemory]) -> Iterator[Metric]:
    held = _gauge("process_memory_bytes", "Memory of a process, by kind.", "process", "kind")
    for process, memory in processes.items():
        for kind in ("rss", "pss", "peak_rss"):
            count = getattr(memory, f"{kind}_bytes")
            if count is not None:
                held.add_metric([process, kind], count)
    yield held


def _of_memory(budget_bytes: int, used_bytes: int) -> Iterator[Metric]:
    yield GaugeMetricFamily(
        "triptych_memory_budget_bytes",
        "Memory budget for models and their requests.",
        value=budget_bytes,
    )
    yield GaugeMetricFamily(
        "triptych_memory_reserved_bytes",
        "Memory reserved by models, and by running requests at their maximum length.",
        value=used_bytes,
    )


def _of_prefix_cache(use: PrefixCacheUse) -> Iterator[Metric]:
    gauges = {
        "prefix_cache_bytes": (use.held_bytes, "States of earlier prompts that are kept."),
        "prefix_cache_max_bytes": (use.max_bytes, "Most bytes that may be kept of them now."),
        "prefix_cache_entries": (use.entries, "Blocks of keys and values, and snapshots."),
    }
    counters = {
        "prefix_cache_queries": (use.query_tokens, "Prompt tokens that were looked up."),
        "prefix_cache_hits": (use.hit_tokens, "Prompt tokens whose state was restored."),
    }
    for name, (value, text) in gauges.items():
        yield GaugeMetricFamily(f"triptych_{name}", text, value=value)
    for name, (value, text) in counters.items():
        yield CounterMetricFamily(f"triptych_{name}", text, value=value)
    stores = _counts("prefix_cache_stores", "Entries stored, by kind.", "kind")
    for kind, count in use.stores.items():
        stores.add_metric([kind], count)
    evictions = _counts("prefix_cache_evictions", "Entries dropped, by reason.", "reason")
    for reason, count in use.evictions.items():
        evictions.add_metric([reason], count)
    yield from (stores, evictions)


def _counts(name: str, text: str, *labels: str) -> CounterMetricFamily:
    return CounterMetricFamily(f"triptych_{name}", text, labels=labels)


def _gauge(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"triptych_{name}", text, labels=labels)
