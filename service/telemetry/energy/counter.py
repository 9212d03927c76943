"""Counters of energy as a Protocol, and the error of one that cannot be read."""

from typing import Literal, Protocol

EnergySource = Literal["rapl", "nvml", "estimate"]


class CounterUnreadable(Exception):
    """There is no such counter, or it cannot be read; the text says why and what to do."""


class EnergyCounter(Protocol):
    """Counts energy from its creation on."""

    @property
    def source(self) -> EnergySource:
        """Its name in records."""

    def read_uj(self) -> int:
        """Microjoules so far; never less than before. Raises CounterUnreadable."""
