"""A program's buffers as tensors, and a single pass over given segments."""

from collections.abc import Sequence

import numpy as np
import torch

from service.torch_host.compiled import batch
from service.torch_host.compiled.kernel import Buffer
from service.torch_host.compiled.program import Program


def rows(program: Program, buffer: Buffer, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """A buffer's memory, shape (most tokens, width)."""
    storage = next(s for b, s in program._buffers.values() if b.address == buffer.address)
    return storage.view(program.max_tokens, buffer.stride).view(dtype)[:, : buffer.width]


def filled(program: Program, name: str, values: torch.Tensor) -> Buffer:
    """A buffer with a row of `values` for each token."""
    buffer = program.buffer(name, values.shape[1], element_bytes=values.element_size())
    rows(program, buffer, values.dtype)[: len(values)] = values
    return buffer


def run(program: Program, segments: Sequence[tuple[int, int]]) -> None:
    """Run a finished program over segments, each of a slot and a number of tokens."""
    slots = np.array([slot for slot, _ in segments], dtype=np.int64)
    firsts = np.cumsum([0, *(tokens for _, tokens in segments)], dtype=np.int64)
    head = program.head
    head[batch.TOKENS], head[batch.SEGMENTS] = firsts[-1], len(segments)
    head[batch.ROWS], head[batch.FIRST_TOKENS] = slots.ctypes.data, firsts.ctypes.data
    program.run()
