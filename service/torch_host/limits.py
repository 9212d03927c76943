"""The limits process: `python -m service.torch_host.limits`, which prints `MachineLimits` as JSON.

It multiplies large matrices and reads a large block of memory, each several times; the best counts.
"""

import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Final

import torch
from msgspec import json

from service.core.limits import MachineLimits

#: Sides of square matrices: the fastest counts, since small ones are slowed by their start and
#: large ones by memory.
SIDES: Final = (1024, 2048)
READ_BYTES: Final = 512 * 2**20
REPEATS: Final = 7
DTYPES: Final = {"cpu": ("float32", "bfloat16"), "cuda": ("float32", "bfloat16", "float16")}
"""torch has no fast product of float16 on processors: it says nothing of their limits."""
ENOUGH_S: Final = 2.0
"""One rate is not measured longer than this, but once."""


def measure(*, sides: tuple[int, ...] = SIDES, read_bytes: int = READ_BYTES) -> MachineLimits:
    """Measure the device that models are loaded onto; takes seconds."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    memory = torch.ones(read_bytes // 4, dtype=torch.float32, device=device)
    best_s = _best_s(memory.sum, device)
    read_per_s = memory.nbytes / best_s
    del memory
    rates: dict[str, float] = {}
    for side in sides:
        left, right = torch.randn(2, side, side, device=device)
        for name in DTYPES[device]:
            dtype = getattr(torch, name)
            one, other = left.to(dtype), right.to(dtype)
            best_s = _best_s(partial(torch.mm, one, other), device)
            rates[name] = max(rates.get(name, 0.0), 2 * side**3 / best_s)
    return MachineLimits(
        device=device,
        threads=torch.get_num_threads(),
        flops_per_s=rates,
        bytes_per_s=read_per_s,
        measured_at_ns=time.time_ns(),
    )


def _best_s(run: Callable[[], object], device: str) -> float:
    """Seconds of the fastest run, after one that warms up."""
    seconds: list[float] = []
    while len(seconds) <= REPEATS and (len(seconds) < 2 or sum(seconds) < ENOUGH_S):  # noqa: PLR2004
        begun = time.perf_counter()
        run()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begun)
    return min(seconds[1:])


if __name__ == "__main__":
    torch.manual_seed(0)
    sys.stdout.buffer.write(json.encode(measure()) + b"\n")
