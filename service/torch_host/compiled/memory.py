"""Memory of programs: aligned to cache lines."""

from typing import Final

import torch

ALIGNMENT: Final = 64
"""Bytes of a cache line."""


def aligned_bytes(count: int) -> torch.Tensor:
    """Uninitialized memory that begins at a cache line."""
    storage = torch.empty(count + ALIGNMENT, dtype=torch.uint8)
    skipped = -storage.data_ptr() % ALIGNMENT
    return storage[skipped : skipped + count]


def aligned(count: int) -> int:
    """A number of bytes rounded up to whole cache lines."""
    return -(-count // ALIGNMENT) * ALIGNMENT
