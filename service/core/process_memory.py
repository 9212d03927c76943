"""Memory of a process, as the kernel accounts it in `/proc`."""

from pathlib import Path

from msgspec import Struct


class ProcessMemory(Struct, frozen=True, kw_only=True):
    """Memory of one process; None where the kernel does not tell."""

    pid: int
    rss_bytes: int | None = None
    """Resident pages, shared ones counted in full (`VmRSS` of `/proc/PID/status`)."""
    pss_bytes: int | None = None
    """Resident pages, shared ones counted by share (`Pss` of `/proc/PID/smaps_rollup`)."""
    peak_rss_bytes: int | None = None
    """Largest resident size so far (`VmHWM` of `/proc/PID/status`)."""


def process_memory(pid: int) -> ProcessMemory:
    """Read a process's memory; all None if it is gone. Blocking: it walks all its pages."""
    folder = Path(f"/proc/{pid}")
    status = _sizes(folder / "status")
    return ProcessMemory(
        pid=pid,
        rss_bytes=status.get("VmRSS"),
        pss_bytes=_sizes(folder / "smaps_rollup").get("Pss"),
        peak_rss_bytes=status.get("VmHWM"),
    )


def family(pid: int) -> tuple[int, ...]:
    """A process and all its descendants, parents first; empty if it is gone."""
    found = [pid] if Path(f"/proc/{pid}").exists() else []
    for parent in found:  # grows while it is walked
        for children in Path(f"/proc/{parent}/task").glob("*/children"):
            found.extend(map(int, _text(children).split()))
    return tuple(found)


def _sizes(file: Path) -> dict[str, int]:
    """Bytes by name, of lines such as `VmRSS:    1234 kB`."""
    lines = (line.split() for line in _text(file).splitlines())
    return {
        words[0].rstrip(":"): int(words[1]) * 1024
        for words in lines
        if len(words) == 3 and words[2] == "kB"  # noqa: PLR2004  name, number, unit
    }


def _text(file: Path) -> str:
    """The file's content; empty if the process is gone or belongs to another user."""
    try:
        return file.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
