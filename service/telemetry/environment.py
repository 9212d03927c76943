"""Environment: the machine and the libraries that measurements were taken on."""

import os
import platform
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

import psutil

_LIBRARIES: Final = ("torch", "transformers", "numba", "tokenizers")
_CPU_MODEL: Final = re.compile(r"^(?:model name|Model|cpu model)\s*:\s*(.+)$", re.MULTILINE)


def environment() -> dict[str, object]:
    """Facts by name; None where unknown. Blocking: it reads files."""
    return {
        "cpu_model": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": psutil.virtual_memory().total,
        "load_average_1m": os.getloadavg()[0],
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "libraries": {name: _version(name) for name in _LIBRARIES},
    }


def _cpu_model() -> str | None:
    try:
        found = _CPU_MODEL.search(Path("/proc/cpuinfo").read_text(errors="replace"))
    except OSError:
        return None
    return found[1].strip() if found else None


def _version(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:
        return None
