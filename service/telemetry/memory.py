"""Memory of the service's processes, read at a bounded rate."""

import time
from collections.abc import Callable, Mapping
from typing import Final

from service.core.process_memory import ProcessMemory, process_memory

REST_NS: Final = 500_000_000
"""Shortest time between two readings of one process, whose pages each reading walks."""


class MemoryProbes:
    """Reads the memory of processes by name, each at most twice a second."""

    def __init__(
        self,
        processes: Callable[[], Mapping[str, int]],
        *,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """Read nothing yet; *processes* gives process ids by name, as they are now."""
        self._processes = processes
        self._clock_ns = clock_ns
        self._latest: dict[int, tuple[int, ProcessMemory]] = {}

    def read(self) -> dict[str, ProcessMemory]:
        """The latest readings by name; blocking."""
        processes = self._processes()
        pids = set(processes.values())
        self._latest = {pid: latest for pid, latest in self._latest.items() if pid in pids}
        return {name: self._read(pid) for name, pid in processes.items()}

    def _read(self, pid: int) -> ProcessMemory:
        now_ns = self._clock_ns()
        latest = self._latest.get(pid)
        if latest is None or now_ns - latest[0] >= REST_NS:
            latest = self._latest[pid] = now_ns, process_memory(pid)
        return latest[1]
