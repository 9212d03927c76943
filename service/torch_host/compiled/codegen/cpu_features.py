"""What the processor can do, and what records call the kernels that use it."""

from typing import Final

import llvmlite.binding


def has_bf16_dot() -> bool:
    """Whether the processor multiplies pairs of bfloat16 (AVX512-BF16)."""
    return bool(llvmlite.binding.get_host_cpu_features().get("avx512bf16", False))


def has_int8_dot() -> bool:
    """Whether the processor multiplies fours of 8-bit numbers (AVX512-VNNI)."""
    return bool(llvmlite.binding.get_host_cpu_features().get("avx512vnni", False))


KERNEL_PATH: Final = "compiled-avx512-bf16" if has_bf16_dot() else "compiled"
