"""Operands of matrix products: conversion and quantization of float32 rows."""

import math
from typing import Final

import numpy as np
from numba import njit, types

from service.torch_host.compiled import batch
from service.torch_host.compiled.codegen.scalars import (
    FAST,
    bits_of,
    float32s,
    float_of,
    from_bf16,
    int8s,
    int32s,
    int64s,
    nearest,
    to_bf16,
    uint16s,
)
from service.torch_host.compiled.formats.format import Format
from service.torch_host.compiled.kernel import Buffer, Kernel
from service.torch_host.compiled.program import Program

#: The least largest value of a group that is divided by it: 127 over less may overflow.
_SMALLEST: Final = np.float32(1e-36)


@njit(fastmath=FAST, error_model="numpy")
def put_operand(kind, row, out, width):
    """Write `width` float32 values at `row` to `out` as float32 or bfloat16."""
    source = float32s(row)
    if kind == 1:
        halves = uint16s(out)
        for i in range(width):
            halves[i] = to_bf16(source[i])
    else:
        target = float32s(out)
        for i in range(width):
            target[i] = source[i]


@njit(fastmath=FAST, error_model="numpy")
def _quantize_row(row, out, width, size):
    """Groups of `size` values with one scale each, as tiles of quantized matrices read them.

    After the scales come corrections: for groups of 64 the int32 that makes up for columns stored
    with 128 added, for groups of 32 the float32 that minima are multiplied with. A group with a NaN
    or an infinity has that for its scale, and codes of zero: products with it are NaN.
    """
    source, groups = float32s(row), (width + size - 1) // size
    scales = float32s(out + groups * size)
    whole, totals = int32s(out + groups * (size + 4)), float32s(out + groups * (size + 4))
    for group in range(groups):
        first, target = group * size, int8s(out + group * size)
        count = min(size, width - first)
        # Magnitudes compare as their bits do, and a NaN's are above those of all numbers.
        bits = types.int32(0)
        for i in range(count):
            bits = max(bits, bits_of(source[first + i]) & types.int32(0x7FFFFFFF))
        largest = float_of(bits)
        total = types.int32(0)
        if _SMALLEST <= largest < types.float32(math.inf):
            factor = types.float32(127.0) / largest
            for i in range(count):
                value = types.int32(nearest(source[first + i] * factor))
                target[i] = types.int8(value)
                total += value
        else:
            count = 0
        for i in range(count, size):
            target[i] = types.int8(0)
        scales[group] = largest / types.float32(127.0)
        if size == 64:
            whole[group] = types.int32(-128) * total
        else:
            totals[group] = types.float32(total) * scales[group]


@Kernel
def _quantize(
    batch_head,
    thread,
    threads,
    x,
    x_stride,
    width,
    out,
    out_stride,
    kind,
    rows,
    rows_per_token,
    size,
):
    fields = int64s(batch_head)
    scratch = fields[batch.SCRATCH] + thread * fields[batch.SCRATCH_BYTES]
    count = fields[rows] * rows_per_token
    work = float32s(scratch)
    for row in range(count * thread // threads, count * (thread + 1) // threads):
        if kind == 1:
            halves = uint16s(x + row * x_stride)
            for i in range(width):
                work[i] = from_bf16(halves[i])
            _quantize_row(scratch, out + row * out_stride, width, size)
        else:
            _quantize_row(x + row * x_stride, out + row * out_stride, width, size)


def quantized(
    program: Program,
    x: Buffer,
    kind: Format,
    *,
    rows: int = batch.TOKENS,
    rows_per_token: int = 1,
) -> Buffer:
    """`x`, an operand, for a product with a matrix of `kind`: as it is, or quantized row by row.

    Each group of values is divided by its largest. One scale per row would be smaller but
    loses small values where a few are large, as is common in language models
    (arXiv 2208.07339).
    """
    size = kind.group_inputs
    if not size:
        return x
    groups = -(-x.width // size)
    out = program.buffer(
        "quantized", groups * (size + 8), element_bytes=1, rows_per_token=rows_per_token
    )
    program.scratch(x.width * 4)
    program.add(
        _quantize,
        x=x,
        width=x.width,
        out=out,
        kind=program.kind,
        rows=rows,
        rows_per_token=rows_per_token,
        size=size,
    )
    return out
