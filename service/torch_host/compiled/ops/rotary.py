"""Rotary position embedding (arXiv 2104.09864): the angles of a batch's tokens."""

import math

import torch
from numba import types

from service.torch_host.compiled import batch
from service.torch_host.compiled.codegen.scalars import float32s, int64s, number
from service.torch_host.compiled.kernel import Buffer, Float32, Kernel
from service.torch_host.compiled.program import Program


@Kernel
def _angles(
    batch_head,
    thread,
    threads,
    width,
    out,
    out_stride,
    short,
    long,
    short_factor: Float32,
    long_factor: Float32,
):
    fields = int64s(batch_head)
    tokens, positions, longs = (
        fields[batch.TOKENS],
        int64s(fields[batch.POSITIONS]),
        int64s(fields[batch.LONG_ROPES]),
    )
    for token in range(tokens * thread // threads, tokens * (thread + 1) // threads):
        is_long = longs[token] != 0
        frequencies = float32s(long if is_long else short)
        factor = number(long_factor) if is_long else number(short_factor)
        cosines = float32s(out + token * out_stride)
        sines = float32s(out + token * out_stride + width * 4)
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
    """Cosines, then sines, of position times frequency; long frequencies where a token has them."""
    width = frequencies.numel()
    out = program.buffer(name, 2 * width)
    short = program.vector(frequencies)
    long = short if long_frequencies is None else program.vector(long_frequencies)
    if long_frequencies is None:
        long_factor = factor
    program.add(
        _angles,
        width=width,
        out=out,
        short=short,
        long=long,
        short_factor=factor,
        long_factor=long_factor,
    )
    return out
