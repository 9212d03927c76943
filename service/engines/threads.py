"""The number of threads that models compute with by default."""

import os
import sys
from pathlib import Path
from typing import Final

CPU_QUOTA: Final = Path("/sys/fs/cgroup/cpu.max")
"""A container's processor quota (cgroup v2): µs per period, and the period."""


def default_threads() -> int:
    """`OMP_NUM_THREADS` if it is set, else all cores that this process may use.

    The service needs little of a core, and gets it: waiting threads go to sleep soon.
    """
    wanted = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    if wanted.isdecimal() and int(wanted):
        return int(wanted)
    return min(len(os.sched_getaffinity(0)), _quota_cores())


def _quota_cores() -> int:
    """Whole cores of the container's quota; `sys.maxsize` without one."""
    try:
        quota_us, period_us = map(int, CPU_QUOTA.read_text(encoding="ascii").split())
    except (OSError, ValueError):  # no cgroup v2, or no limit: `max 100000`
        return sys.maxsize
    return max(1, quota_us // period_us)
