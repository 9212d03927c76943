"""Instruction sets are those of numba's target, so that one processor tests kernels of another."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from service.torch_host.compiled.codegen.cpu_features import KERNEL_PATH, target_features

ROOT = Path(__file__).parents[4]
RESTRICTED = os.environ.get("TRIPTYCH_TEST_CPU") == "avx2"
PROGRAM = """
import numba
from service.torch_host.compiled.codegen.cpu_features import KERNEL_PATH, target_features

print(KERNEL_PATH, *(name for name in sorted(target_features()) if name.startswith("avx")))
print(numba.config.CACHE_DIR)
"""


def described(**environment: str) -> tuple[str, str]:
    """Kernel path and AVX features of another process, and where it keeps machine code."""
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=os.environ | environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    first, second = ended.stdout.splitlines()
    return first, second


def test_numba_may_be_told_another_processor():
    """`NUMBA_CPU_NAME` with `NUMBA_CPU_FEATURES` chooses kernels and a folder of their own.

    What the host can do was once asked for instead, so kernels of AVX-512 were made for targets
    without it.
    """
    found, cache = described(NUMBA_CPU_NAME="haswell", NUMBA_CPU_FEATURES="+avx2,+fma,+f16c")
    _, of_host = described()

    assert found == "compiled avx2"
    assert cache != of_host


@pytest.mark.skipif(not RESTRICTED, reason="TRIPTYCH_TEST_CPU is not avx2")
def test_this_run_is_restricted_to_avx2():
    """Neither our kernels nor torch's use AVX-512 in a run that claims to test AVX2."""
    assert KERNEL_PATH == "compiled"
    assert "avx2" in target_features()
    assert not [name for name in target_features() if "512" in name]
    assert torch.backends.cpu.get_cpu_capability() == "AVX2"
