"""Estimate: energy as a constant power times time, where the operator states the power."""

import time
from collections.abc import Callable

from service.telemetry.energy.counter import EnergySource


class EstimatedEnergy:
    """`power.watts` times the time since its creation: an estimate, and named so in records."""

    source: EnergySource = "estimate"

    def __init__(self, watts: float, clock_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self._watts = watts
        self._clock_ns = clock_ns
        self._began_ns = clock_ns()

    def read_uj(self) -> int:
        """Microjoules so far."""
        return round(self._watts * (self._clock_ns() - self._began_ns) / 1000)
