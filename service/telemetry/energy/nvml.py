"""NVML: the energy counter of the GPU that holds the models, by NVIDIA's own library."""

import importlib
import os
from typing import Any

from service.telemetry.energy.counter import CounterUnreadable, EnergySource


class NvmlCounter:
    """Energy of one GPU since its driver was loaded, in steps of millijoules."""

    source: EnergySource = "nvml"

    def __init__(self, nvml: Any, device: Any) -> None:  # noqa: ANN401 - the library is untyped
        """Count from now on; `open` finds the device. Raises CounterUnreadable."""
        self._nvml = nvml
        self._device = device
        self._first_mj = self._read_mj()

    @classmethod
    def open(cls) -> "NvmlCounter":
        """The first GPU of `CUDA_VISIBLE_DEVICES`, else the first. Raises CounterUnreadable."""
        try:
            nvml = importlib.import_module("pynvml")
        except ImportError:
            raise CounterUnreadable(
                "NVIDIA's library is missing; run: python -m pip install 'triptych[nvidia]'"
            ) from None
        wanted = os.environ.get("CUDA_VISIBLE_DEVICES", "").partition(",")[0].strip() or "0"
        try:
            nvml.nvmlInit()
            if wanted.isdecimal():
                device = nvml.nvmlDeviceGetHandleByIndex(int(wanted))
            else:
                device = nvml.nvmlDeviceGetHandleByUUID(wanted)
        except nvml.NVMLError as error:
            raise CounterUnreadable(f"NVML: {error}") from error
        return cls(nvml, device)

    def read_uj(self) -> int:
        """Microjoules so far."""
        return 1000 * (self._read_mj() - self._first_mj)

    def _read_mj(self) -> int:
        """Millijoules since the driver was loaded; GPUs before Volta do not count them."""
        try:
            return int(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._device))
        except self._nvml.NVMLError as error:
            raise CounterUnreadable(f"NVML: {error}") from error
