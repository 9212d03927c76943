"""Memory of processes, as counted by the kernel."""

import time
from collections.abc import Callable
from pathlib import Path

import psutil
from msgspec import Struct

_REST_NS = 500_000_000


class ProcessMemory(Struct, frozen=True, kw_only=True):
    """Memory of one process; None where unknown."""

    pid: int | None = None
    rss_bytes: int | None
    """Resident pages, shared ones counted whole (`/proc/PID/statm`)."""
    pss_bytes: int | None
    """Resident pages, shared ones counted by share (`/proc/PID/smaps_rollup`)."""
    peak_rss_bytes: int | None
    """Peak resident size (`VmHWM` of `/proc/PID/status`)."""


class ProcessProbe:
    """Reads a process's memory, at most twice a second: `smaps_rollup` walks all its pages."""

    def __init__(
        self, pid: int | None = None, *, clock_ns: Callable[[], int] = time.monotonic_ns
    ) -> None:
        """Watch the process *pid*; None watches this one."""
        self._pid = pid
        self._clock_ns = clock_ns
        self._read_ns: int | None = None
        self._latest = _gone(pid)

    def read(self) -> ProcessMemory:
        """The latest reading; all None once the process is gone."""
        now_ns = self._clock_ns()
        if self._read_ns is None or now_ns - self._read_ns >= _REST_NS:
            self._read_ns = now_ns
            self._latest = _read(self._pid)
        return self._latest


def children(pid: int) -> tuple[int, ...]:
    """Descendants of a process; empty once it is gone."""
    try:
        return tuple(child.pid for child in psutil.Process(pid).children(recursive=True))
    except psutil.NoSuchProcess:
        return ()


def _read(pid: int | None) -> ProcessMemory:
    try:
        process = psutil.Process(pid)
        full = process.memory_full_info()
    except psutil.NoSuchProcess:
        return _gone(pid)
    except psutil.AccessDenied:
        # Another user's process: statm is readable where smaps is not.
        return ProcessMemory(
            pid=process.pid,
            rss_bytes=process.memory_info().rss,
            pss_bytes=None,
            peak_rss_bytes=_peak(process.pid),
        )
    return ProcessMemory(
        pid=process.pid,
        rss_bytes=full.rss,
        pss_bytes=getattr(full, "pss", None),
        peak_rss_bytes=_peak(process.pid),
    )


def _gone(pid: int | None) -> ProcessMemory:
    return ProcessMemory(pid=pid, rss_bytes=None, pss_bytes=None, peak_rss_bytes=None)


def _peak(pid: int) -> int | None:
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    for line in lines.splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return None
