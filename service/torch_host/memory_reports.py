"""MemoryReports: rate-limited reports of each model's memory and step times."""

import time
from collections.abc import Callable, Mapping
from typing import Final

import torch
from msgspec import structs

from service.engines.torch.protocol.messages import DeviceMemory, FromHost, MemoryReport
from service.engines.torch.protocol.messages import StepTimes as ReportedStepTimes
from service.torch_host.prefix.prefixes import Prefixes
from service.torch_host.scheduling.step_times import StepTimes
from service.torch_host.slot_model import SlotModel

INTERVAL_NS: Final = 250_000_000
"""Shortest time between two reports of one model while the loop is busy."""


class MemoryReports:
    """Collects the models whose memory has changed and emits a report of each when due."""

    def __init__(
        self,
        models: Mapping[str, SlotModel],
        step_times: Callable[[str], StepTimes],
        prefixes: Prefixes,
        emit: Callable[[FromHost], None],
    ) -> None:
        self._models = models
        self._step_times = step_times
        self._prefixes = prefixes
        self._emit = emit
        self._changed: set[str] = set()
        self._reported_ns: dict[str, int] = {}

    def changed(self, model_id: str) -> None:
        """Report a model when next due."""
        self._changed.add(model_id)

    def forget(self, model_id: str) -> None:
        """Drop a model that is gone."""
        self._changed.discard(model_id)
        self._reported_ns.pop(model_id, None)

    def emit_due(self, *, at_once: bool) -> None:
        """Emit the reports that are due; all of them with `at_once`."""
        now_ns = time.monotonic_ns()
        for model_id in list(self._changed):
            if at_once or now_ns - self._reported_ns.get(model_id, 0) >= INTERVAL_NS:
                self._changed.discard(model_id)
                self._reported_ns[model_id] = now_ns
                self._emit(self._report(model_id))

    def _report(self, model_id: str) -> MemoryReport:
        times = self._step_times(model_id)
        requests = times.decode.mean_size
        held = self._prefixes.cache.held_by(model_id)
        return MemoryReport(
            model_id,
            structs.replace(self._models[model_id].memory(), snapshots_bytes=held),
            ReportedStepTimes(
                decode_step_ns=_rounded(times.decode.mean_duration_ns),
                decode_step_requests=None if requests is None else round(requests, 2),
                prefill_token_ns=_rounded(times.prefill.mean_unit_ns),
            ),
            _device_memory(),
            self._prefixes.use,
        )


def _device_memory() -> DeviceMemory | None:
    if not torch.cuda.is_available():
        return None
    return DeviceMemory(
        name=torch.cuda.get_device_name(),
        allocated_bytes=torch.cuda.memory_allocated(),
        reserved_bytes=torch.cuda.memory_reserved(),
    )


def _rounded(value: float | None) -> int | None:
    return None if value is None else round(value)
