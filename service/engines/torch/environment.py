"""The environment of the torch host, which OpenMP, malloc and numba read when it starts."""

import os
from pathlib import Path
from typing import Final

SPIN_COUNT: Final = 20_000
"""Polls of a waiting OpenMP thread before it goes to sleep.

Some tenths of a millisecond: longer than the gaps between the parallel regions of a step, where
going to sleep and waking up costs 20 to 50 µs each, and soon over when a step has ended, so that
service and tokenizers get the core. libgomp's default is milliseconds.
"""

NOT_PASSED_ON: Final = ("OMP_DYNAMIC", "OMP_THREAD_LIMIT")
"""Variables that let OpenMP form smaller teams than kernels ask for."""


def environment(threads: int, data_dir: Path) -> dict[str, str]:
    """The child's environment; the operator's own settings override the tuning."""
    # Each step allocates and frees a few large tensors. By default glibc returns such memory to the
    # system and faults it in again page by page, which halves the speed of SSM decode.
    allocator = {
        "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
        "MALLOC_TRIM_THRESHOLD_": str(256 * 2**20),
        # Weights in pages of 2 MiB where the system has them: fewer TLB misses.
        "THP_MEM_ALLOC_ENABLE": "1",
    }
    kernels = {"NUMBA_CACHE_DIR": str((data_dir / "cache" / "kernels").resolve())}
    # A spin count would override a policy that the operator has set. Threads are not pinned to
    # cores (OMP_PROC_BIND): a thread whose core another process takes could not move to a free
    # one, and all others would wait for it.
    waiting = {} if "OMP_WAIT_POLICY" in os.environ else {"GOMP_SPINCOUNT": str(SPIN_COUNT)}
    inherited = {name: value for name, value in os.environ.items() if name not in NOT_PASSED_ON}
    return (allocator | kernels | waiting | inherited) | {
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "PYTHONUNBUFFERED": "1",
    }
