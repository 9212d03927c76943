"""Free memory for models: of the machine, its container, or its GPU."""

import csv
import importlib.metadata
import logging
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
from msgspec import Struct

log = logging.getLogger(__name__)

#: Longest wait for the GPU's driver at startup, in seconds.
DRIVER_S = 5.0
_CGROUPS = Path("/sys/fs/cgroup")
_MEMBERSHIP = Path("/proc/self/cgroup")
#: A limit so high is version 1's word for none.
_NO_LIMIT = 2**60
_MIB = 2**20


class Available(Struct, frozen=True, kw_only=True):
    """Device that holds models, and its free memory."""

    device: str
    """`cpu`, or the GPU's name."""
    free_bytes: int


def available() -> Available:
    """Free memory of the GPU that torch would use, else of the machine."""
    return gpu() or Available(device="cpu", free_bytes=free_memory_bytes())


def free_memory_bytes(root: Path = _CGROUPS, membership: Path = _MEMBERSHIP) -> int:
    """Free memory of the machine, or less where a container's limit is lower."""
    machine = psutil.virtual_memory().available
    return max(0, min((machine, *_below_limits(root, membership))))


def _below_limits(root: Path, membership: Path) -> Iterator[int]:
    """Bytes left below each limit on this process."""
    try:
        lines = membership.read_text(encoding="ascii").splitlines()
    except OSError:  # not Linux, or no control groups
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            names = ("memory.max", "memory.current", "inactive_file")
            base = root
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            base = root / "memory"
        else:
            continue
        # In a container the path may be the host's: what is not there is skipped.
        inner = base / path.lstrip("/")
        for folder in (inner, *inner.parents):
            if not folder.is_relative_to(base):
                break
            free = _below_limit(folder, *names)
            if free is not None:
                yield free


def _below_limit(folder: Path, limit: str, usage: str, reclaimable: str) -> int | None:
    try:
        limit_bytes = int((folder / limit).read_text(encoding="ascii"))
        used_bytes = int((folder / usage).read_text(encoding="ascii"))
        stat = (folder / "memory.stat").read_text(encoding="ascii")
    except (OSError, ValueError):  # no limit here: the word `max`, or no such file
        return None
    if limit_bytes >= _NO_LIMIT:
        return None
    counts = dict(line.split() for line in stat.splitlines())
    return limit_bytes - used_bytes + int(counts.get(reclaimable, 0))


def gpu() -> Available | None:
    """The first GPU that torch would use, None if models are held in memory.

    Asks the driver's own tool: to import torch would take seconds and hundreds of megabytes.
    """
    tool = shutil.which("nvidia-smi")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if tool is None or visible in ("", "-1") or not _torch_has_cuda():
        return None
    query = [tool, "--query-gpu=name,memory.free", "--format=csv,noheader,nounits"]
    if visible:
        query.append(f"--id={visible.partition(',')[0]}")
    try:
        answer = subprocess.run(  # noqa: S603 (a fixed query)
            query, capture_output=True, text=True, check=True, timeout=DRIVER_S
        ).stdout
        name, free_mib = next(csv.reader(answer.splitlines(), skipinitialspace=True))
        return Available(device=name, free_bytes=int(free_mib) * _MIB)
    except (OSError, subprocess.SubprocessError, StopIteration, ValueError) as error:
        log.warning("nvidia-smi did not report the GPU's free memory: %s", error)
        return None


def _torch_has_cuda() -> bool:
    try:
        return not importlib.metadata.version("torch").endswith("+cpu")
    except importlib.metadata.PackageNotFoundError:
        return False
