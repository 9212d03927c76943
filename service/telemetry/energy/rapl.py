"""RAPL: the energy counters of processor packages and their memory, by Linux' powercap.

Ref: https://docs.kernel.org/power/powercap/powercap.html. Zones are `intel-rapl:N`, of AMD's
processors too. A package holds its cores and its graphics; `dram` is beside it, `psys` around it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from service.telemetry.energy.counter import CounterUnreadable, EnergySource

POWERCAP: Final = Path("/sys/class/powercap")


class RaplCounter:
    """Sum of all packages and memories; each zone's counter wraps around at its own range."""

    source: EnergySource = "rapl"

    def __init__(self, zones: Sequence["_Zone"]) -> None:
        """Count from now on; `open` finds the zones. Raises CounterUnreadable."""
        self._zones = zones
        self._last_uj = [zone.read_uj() for zone in zones]
        self._total_uj = 0

    @classmethod
    def open(cls, root: Path = POWERCAP) -> "RaplCounter":
        """The counters of this machine. Raises CounterUnreadable."""
        zones = [_Zone(folder) for folder in sorted(root.glob("intel-rapl:*"))]
        counted = [zone for zone in zones if zone.name.startswith("package-")]
        if not counted:
            raise CounterUnreadable(f"{root} has no package zone of intel-rapl")
        return cls([*counted, *(zone for zone in zones if zone.name == "dram")])

    def read_uj(self) -> int:
        """Microjoules so far, if no zone wrapped around twice since the last reading."""
        for index, zone in enumerate(self._zones):
            now_uj = zone.read_uj()
            spent_uj = now_uj - self._last_uj[index]
            self._total_uj += spent_uj if spent_uj >= 0 else spent_uj + zone.range_uj
            self._last_uj[index] = now_uj
        return self._total_uj


class _Zone:
    def __init__(self, folder: Path) -> None:
        self._energy = folder / "energy_uj"
        try:
            self.name = (folder / "name").read_text(encoding="ascii").strip()
            self.range_uj = int((folder / "max_energy_range_uj").read_text(encoding="ascii"))
        except (OSError, ValueError):  # a zone of another kind
            self.name, self.range_uj = "", 0

    def read_uj(self) -> int:
        try:
            return int(self._energy.read_text(encoding="ascii"))
        except PermissionError:
            raise CounterUnreadable(
                f"{self._energy} may be read by root alone (the kernel's default since "
                "CVE-2020-8694); let a group read it by a udev rule, and run the service in it"
            ) from None
        except (OSError, ValueError) as error:
            raise CounterUnreadable(f"{self._energy}: {error}") from error
