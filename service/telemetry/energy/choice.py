"""Choice of the counter: that of the device that holds the models, else the stated power."""

from collections.abc import Callable

from msgspec import Struct

from service.telemetry.energy.counter import CounterUnreadable, EnergyCounter
from service.telemetry.energy.estimate import EstimatedEnergy
from service.telemetry.energy.nvml import NvmlCounter
from service.telemetry.energy.rapl import RaplCounter


class ChosenCounter(Struct, frozen=True, kw_only=True):
    """The counter of this machine, and what was not to be had."""

    counter: EnergyCounter | None
    reason: str | None
    """Why the device's own counter cannot be read; None if it can."""


def choose_counter(
    *,
    device: str,
    watts: float = 0,
    rapl: Callable[[], EnergyCounter] = RaplCounter.open,
    nvml: Callable[[], EnergyCounter] = NvmlCounter.open,
) -> ChosenCounter:
    """The counter of *device*, `cpu` or a GPU's name; *watts* of 0 are not stated.

    The processor's counter says nothing of models on a GPU, so it does not stand in for the GPU's.
    """
    try:
        return ChosenCounter(counter=rapl() if device == "cpu" else nvml(), reason=None)
    except CounterUnreadable as error:
        counter = EstimatedEnergy(watts) if watts else None
        return ChosenCounter(counter=counter, reason=str(error))
