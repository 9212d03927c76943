"""Instruction sets that kernels are compiled for, and the kernel paths that records name.

They are those of numba's target: the host's, unless `NUMBA_CPU_NAME` and `NUMBA_CPU_FEATURES` are
set.
"""

from functools import cache
from typing import Final

import llvmlite.binding
from numba.core.registry import cpu_target

LLVM_VERSION: Final = int(llvmlite.binding.llvm_version_info[0])
"""LLVM's major version, which decides on the types of some intrinsics."""


@cache
def target() -> tuple[str, str, str]:
    """Triple, processor and features for which numba compiles, as LLVM names them."""
    triple, cpu, features = cpu_target.target_context.codegen().magic_tuple()
    return str(triple), str(cpu), str(features)


@cache
def target_features() -> frozenset[str]:
    """Features that the target names, without those that only follow from its processor."""
    _, _, features = target()
    return frozenset(name[1:] for name in features.split(",") if name.startswith("+"))


def has_bf16_dot() -> bool:
    """True if the target has dot products of bfloat16 pairs (AVX512-BF16)."""
    return "avx512bf16" in target_features()


def has_int8_dot() -> bool:
    """True if the target has dot products of four 8-bit numbers (AVX512-VNNI)."""
    return "avx512vnni" in target_features()


KERNEL_PATH: Final = "compiled-avx512-bf16" if has_bf16_dot() else "compiled"
