"""Mamba-2's recurrence (state space duality, arXiv 2405.21060), token by token in its linear form.

A head's state is a matrix (head size P, state size N) that every token lets decay by one factor and
adds an outer product to. Each row of it depends on no other, so threads divide the rows; a token's
sums along N are taken in one order whoever takes them, which is what makes a prompt's chunks come
out as the whole does.
"""

import math
from typing import Any, Final

import numpy as np
import torch
from numba import njit, types
from numba.extending import intrinsic

from service.torch_host.compiled import batch
from service.torch_host.compiled.codegen.debug_mode import MEMORY, in_python
from service.torch_host.compiled.codegen.lanes import (
    LANES,
    ZERO,
    fma,
    load,
    long,
    loop,
    plus,
    splat,
    spread,
    store,
    sum_of,
)
from service.torch_host.compiled.codegen.scalars import FAST, exp, float32s, int64s, number
from service.torch_host.compiled.kernel import Buffer, Float32, Kernel
from service.torch_host.compiled.program import Program
from service.torch_host.compiled.uncompilable import Uncompilable

#: Rows of a state that a step of many tokens advances together, so that B and C are loaded once.
_ROWS: Final = 4
#: Tokens whose time steps are computed together.
_TOKENS: Final = 64


def _write_step(builder: Any, operands: Any, rows: int) -> None:
    """A loop over vectors of the rows; each is read, advanced, multiplied with C and written.

    Operands as those of `_step`.
    """
    state, row_bytes, steps, decay, inputs, b, c, out = operands
    kept = splat(builder, decay)
    added = [spread(builder, builder.add(inputs, long(4 * row))) for row in range(rows)]
    firsts = [plus(builder, state, row_bytes, row) for row in range(rows)]

    def step(index: Any, sums: Any) -> Any:
        at = builder.mul(index, long(4 * LANES))
        written, read = (load(builder, builder.add(vector, at)) for vector in (b, c))
        grown = []
        for first, values, total in zip(firsts, added, sums, strict=True):
            place = builder.add(first, at)
            new = fma(builder, values, written, builder.fmul(load(builder, place), kept))
            store(builder, new, place)
            grown.append(fma(builder, new, read, total))
        return grown

    for row, total in enumerate(loop(builder, steps, [ZERO] * rows, step)):
        store(builder, sum_of(builder, total), builder.add(out, long(4 * row)))


def _step(rows: int) -> Any:
    """An intrinsic: `state = state * decay + inputs ⊗ b; out = state @ c` for a few rows.

    Operands are addresses: (state, bytes of a row, steps of 16 in a row, decay, inputs, b, c, out).
    A row's bits do not depend on how many rows there are.
    """

    def interpreted(state, row_bytes, steps, decay, inputs, b, c, out):
        written, read = (MEMORY.array(at, np.float32, LANES * steps) for at in (b, c))
        for row in range(rows):
            kept = MEMORY.array(state + row * row_bytes, np.float32, LANES * steps)
            added = MEMORY.array(inputs + 4 * row, np.float32, 1)
            kept[:] = added * written + kept * decay
            MEMORY.array(out + 4 * row, np.float32, 1)[:] = kept @ read

    @in_python(interpreted)
    @intrinsic
    def run(typing_context, state, row_bytes, steps, decay, inputs, b, c, out):
        def generate(context, builder, signature, arguments):
            _write_step(builder, arguments, rows)
            return context.get_dummy_value()

        numbers = [types.int64] * 3
        return types.void(*numbers, types.float32, *[types.int64] * 4), generate

    return run


_one_row = _step(1)
_four_rows = _step(_ROWS)


@njit(inline="always", fastmath=FAST, error_model="numpy")
def _softplus(value):
    """`log(1 + e^value)` of a float32, to about 1e-7 of it.

    The logarithm is 2 artanh(t / (2 + t)) with t = e^-|value|, whose series converges fast as its
    argument is at most a third, and keeps its precision where the result is tiny.
    """
    small = exp(-abs(value))
    ratio = small / (types.float32(2.0) + small)
    square = ratio * ratio
    y = types.float32(1 / 17)
    y = y * square + types.float32(1 / 15)
    y = y * square + types.float32(1 / 13)
    y = y * square + types.float32(1 / 11)
    y = y * square + types.float32(1 / 9)
    y = y * square + types.float32(1 / 7)
    y = y * square + types.float32(1 / 5)
    y = y * square + types.float32(1 / 3)
    y = y * square + types.float32(1.0)
    return max(value, types.float32(0.0)) + types.float32(2.0) * ratio * y


@njit(fastmath=FAST, error_model="numpy")
def _time_steps(dt, stride, count, scale, bias, rate, low, high, steps, decays):
    """Time steps of one head's tokens, and the decay factors of its state."""
    step, decay = float32s(steps), float32s(decays)
    for i in range(count):
        step[i] = float32s(dt + i * stride)[0]
    # Always whole vectors: LLVM divides single numbers otherwise than those of vectors.
    for block in range((count + 15) // 16):
        for i in range(block * 16, block * 16 + 16):
            step[i] = min(max(_softplus(step[i] * scale + bias), low), high)
            decay[i] = exp(step[i] * rate)


@njit(fastmath=FAST)
def _advance(state, rows, row_bytes, steps, step, decay, x, b, c, skip, out, inputs, alone):
    """Advance some rows of a head by one token."""
    source, target, added = float32s(x), float32s(out), float32s(inputs)
    for i in range(rows):
        added[i] = source[i] * step
    row = 0
    if alone == 0:
        while rows - row >= 4:
            place = state + row * row_bytes
            _four_rows(place, row_bytes, steps, decay, inputs + row * 4, b, c, out + row * 4)
            row += 4
    while row < rows:
        place = state + row * row_bytes
        _one_row(place, row_bytes, steps, decay, inputs + row * 4, b, c, out + row * 4)
        row += 1
    for i in range(rows):
        target[i] += source[i] * skip


@Kernel
def _ssd(
    batch_head,
    thread,
    threads,
    x,
    x_stride,
    b,
    b_stride,
    c,
    c_stride,
    dt,
    dt_stride,
    out,
    out_stride,
    state,
    heads,
    shared,
    size,
    width,
    rates,
    skips,
    biases,
    scale: Float32,
    low: Float32,
    high: Float32,
):
    fields = int64s(batch_head)
    rates, skips, biases = float32s(rates), float32s(skips), float32s(biases)
    scale, low, high = number(scale), number(low), number(high)
    if fields[batch.PREFILLING] == 0:
        low, high = types.float32(0.0), types.float32(math.inf)
    firsts, slots = int64s(fields[batch.FIRST_TOKENS]), int64s(fields[batch.ROWS])
    steps = fields[batch.SCRATCH] + thread * fields[batch.SCRATCH_BYTES]
    decays, inputs = steps + 256, steps + 512
    step, decay = float32s(steps), float32s(decays)
    row_bytes = width * 4
    quads = (size + 3) // 4
    items = fields[batch.SEGMENTS] * heads * quads
    item, end = items * thread // threads, items * (thread + 1) // threads
    while item < end:
        segment, head, quad = item // quads // heads, item // quads % heads, item % quads
        taken = min(quads - quad, end - item)
        item += taken
        row = quad * 4
        rows = min(size, (quad + taken) * 4) - row
        place = state + ((slots[segment] * heads + head) * size + row) * row_bytes
        column, group = (head * size + row) * 4, head // shared * row_bytes
        first, last = firsts[segment], firsts[segment + 1]
        # A lone token reads its state from memory, which is fastest in one stream.
        alone = 1 if last - first == 1 else 0
        while first < last:
            count = min(64, last - first)
            _time_steps(
                dt + first * dt_stride + head * 4,
                dt_stride,
                count,
                scale,
                biases[head],
                rates[head],
                low,
                high,
                steps,
                decays,
            )
            for i in range(count):
                token = first + i
                _advance(
                    place,
                    rows,
                    row_bytes,
                    width // 16,
                    step[i],
                    decay[i],
                    x + token * x_stride + column,
                    b + token * b_stride + group,
                    c + token * c_stride + group,
                    skips[head],
                    out + token * out_stride + column,
                    inputs,
                    alone,
                )
            first += count


def ssd(
    program: Program,
    x: Buffer,
    b: Buffer,
    c: Buffer,
    dt: Buffer,
    out: Buffer,
    state: torch.Tensor,
    *,
    rate: torch.Tensor,
    skip: torch.Tensor,
    dt_bias: torch.Tensor,
    dt_scale: float = 1.0,
    dt_limit: tuple[float, float] = (0.0, math.inf),
) -> None:
    """`state = state * exp(Δ rate) + Δ x ⊗ B; out = state @ C + skip * x` for every head.

    `x` and `out` are (tokens, heads * P), `b` and `c` (tokens, groups * N), `dt` (tokens, heads),
    `state` (slots, heads, P, N); rate (below 0), skip and bias (heads,). Δ is the softplus of
    `dt * dt_scale + dt_bias`, and within `dt_limit` while a prompt is read: transformers does not
    limit it where it advances by one token.

    Raises Uncompilable if N is not a multiple of 16.
    """
    _, heads, size, width = state.shape
    if width % LANES:
        raise Uncompilable(f"a state size of {width} is not a multiple of {LANES}")
    assert x.width == out.width == heads * size
    assert b.width == c.width
    program.scratch(2 * _TOKENS * 4 + size * 4)
    program.add(
        _ssd,
        x=x,
        b=b,
        c=c,
        dt=dt,
        out=out,
        state=state.data_ptr(),
        heads=heads,
        shared=heads // (b.width // width),
        size=size,
        width=width,
        rates=program.vector(rate),
        skips=program.vector(skip),
        biases=program.vector(dt_bias),
        scale=dt_scale,
        low=dt_limit[0],
        high=dt_limit[1],
    )
