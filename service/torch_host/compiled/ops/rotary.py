"""Rotary position embedding (arXiv 2104.09864): the angles of a batch's tokens."""

import math

import torch
from numba import types

from service.torch_host.compiled.codegen.scalars import float32s, int64s, number
from service.torch_host.compiled.program import Buffer, Kernel, Program, bits


@Kernel
def _angles(address, thread, threads):
    p = int64s(address)
    batch = int64s(p[0])
    tokens, positions, longs = batch[0], int64s(batch[3]), int64s(batch[10])
    width, out, stride = p[1], p[2], p[3]
    for token in range(tokens * thread // threads, tokens * (thread + 1) // threads):
        long = longs[token] != 0
        frequencies = float32s(p[5] if long else p[4])
        factor = number(p[7]) if long else number(p[6])
        cosines = float32s(out + token * stride)
        sines = float32s(out + token * stride + width * 4)
        for i in range(width):
            angle = types.float32(frequencies[i] * types.float32(positions[token]))
            cosines[i] = math.cos(angle) * factor
            sines[i] = math.sin(angle) * factor


def angles(
    program: Program,
    name: str,
    frequencies: torch.Tensor,
    *,
    factor: float = 1.0,
    long_frequencies: torch.Tensor | None = None,
    long_factor: float = 1.0,
) -> Buffer:
    """Cosines, then sines, of position times each frequency; the long ones where a token asks."""
    width = frequencies.numel()
    out = program.buffer(name, 2 * width)
    short = program.vector(frequencies)
    long = short if long_frequencies is None else program.vector(long_frequencies)
    if long_frequencies is None:
        long_factor = factor
    program.add(
        _angles, width, out.address, out.stride, short, long, bits(factor), bits(long_factor)
    )
    return out
