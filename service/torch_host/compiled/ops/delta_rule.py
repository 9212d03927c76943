"""The gated delta rule (arXiv 2412.06464): linear attention with decay and error correction.

A head's state S, (key size, value size), maps keys to values. A token decays it,
reads the value of its own key, and moves that towards its own value by the factor beta:

    S ← decay S + k δᵀ,  δ = beta (v - decay Sᵀ k),  answer = Sᵀ q

The sums Sᵀ k and Sᵀ q are both taken before the token's own update, because the answer after it is
decay Sᵀ q + (q · k) δ. So one token's update and the next one's sums are a single pass over S.
"""

import math
from typing import Final

import torch
from numba import njit, types

from service.torch_host.compiled import batch
from service.torch_host.compiled.codegen.lanes import LANES
from service.torch_host.compiled.codegen.scalars import FAST, exp, float32s, int64s, sigmoid
from service.torch_host.compiled.kernel import Buffer, Kernel
from service.torch_host.compiled.ops.delta_state import COLUMNS, ask, update, update_and_ask
from service.torch_host.compiled.program import Program

#: Keeps the length of a vector of zeros from being divided by.
_EPS: Final = 1e-6


@njit(fastmath=FAST)
def _scale_to_length(row, size, length):
    """Give a vector a length in place (Euclidean, as good as 0 stays 0)."""
    values = float32s(row)
    total = types.float32(0.0)
    for i in range(size):
        total += values[i] * values[i]
    factor = types.float32(length / math.sqrt(total + types.float32(_EPS)))
    for i in range(size):
        values[i] *= factor


@Kernel
def _prepare(
    batch_head,
    thread,
    threads,
    mixed,
    mixed_stride,
    a,
    a_stride,
    b,
    b_stride,
    rate,
    dt_bias,
    out,
    out_stride,
    heads,
    shared,
    size,
):
    fields = int64s(batch_head)
    rate, dt_bias = float32s(rate), float32s(dt_bias)
    items = fields[batch.TOKENS] * heads
    for item in range(items * thread // threads, items * (thread + 1) // threads):
        token, head = item // heads, item % heads
        q = mixed + token * mixed_stride + head * size * 4
        k = q + heads * size * 4
        _scale_to_length(q, size, types.float32(1.0 / math.sqrt(size)))
        _scale_to_length(k, size, types.float32(1.0))
        queries, keys = float32s(q), float32s(k)
        product = types.float32(0.0)
        for i in range(size):
            product += queries[i] * keys[i]
        steps, openings = float32s(a + token * a_stride), float32s(b + token * b_stride)
        target = float32s(out + token * out_stride)
        for value_head in range(head * shared, (head + 1) * shared):
            step = steps[value_head] + dt_bias[value_head]
            softplus = max(step, types.float32(0.0)) + math.log1p(exp(-abs(step)))
            scalars = value_head * 3
            target[scalars] = exp(-rate[value_head] * softplus)
            target[scalars + 1] = sigmoid(openings[value_head])
            target[scalars + 2] = product


@njit(fastmath=FAST)
def _walk(
    state,
    state_stride,
    q,
    k,
    v,
    stride,
    scalars,
    scalars_stride,
    out,
    out_stride,
    tokens,
    size,
    width,
    scratch,
):
    """Advance some columns of one head's state by the tokens of a segment."""
    panels = (width + LANES - 1) // LANES
    delta, sums = scratch, scratch + COLUMNS * 4
    deltas, of_key, of_query = float32s(delta), float32s(sums), float32s(sums + COLUMNS * 4)
    for c in range(width, panels * LANES):
        deltas[c] = types.float32(0.0)
    decay, last = types.float32(1.0), k
    for token in range(tokens):
        key, query = k + token * stride, q + token * stride
        if token == 0:
            ask(state, state_stride, size, panels, decay, key, delta, key, query, sums)
        else:
            update_and_ask(state, state_stride, size, panels, decay, last, delta, key, query, sums)
        three = float32s(scalars + token * scalars_stride)
        decay, beta, product = three[0], three[1], three[2]
        values, answers = float32s(v + token * stride), float32s(out + token * out_stride)
        for c in range(width):
            deltas[c] = beta * (values[c] - decay * of_key[c])
            answers[c] = decay * of_query[c] + product * deltas[c]
        last = key
    update(state, state_stride, size, panels, decay, last, delta, last, last, sums)


@njit(fastmath=FAST)
def _copy_columns(source, source_stride, target, target_stride, rows, width):
    for row in range(rows):
        values = float32s(source + row * source_stride)
        copies = float32s(target + row * target_stride)
        for c in range(width):
            copies[c] = values[c]


@Kernel
def _delta_rule(
    batch_head,
    thread,
    threads,
    mixed,
    mixed_stride,
    scalars,
    scalars_stride,
    out,
    out_stride,
    state,
    key_heads,
    shared,
    size,
    value_size,
):
    fields = int64s(batch_head)
    firsts, slots = int64s(fields[batch.FIRST_TOKENS]), int64s(fields[batch.ROWS])
    heads = key_heads * shared
    blocks = (value_size + COLUMNS - 1) // COLUMNS
    items = fields[batch.SEGMENTS] * heads * blocks
    scratch = fields[batch.SCRATCH] + thread * fields[batch.SCRATCH_BYTES]
    for item in range(items * thread // threads, items * (thread + 1) // threads):
        block, head, segment = item % blocks, item // blocks % heads, item // blocks // heads
        first, column = firsts[segment], block * COLUMNS
        width = min(COLUMNS, value_size - column)
        kept = state + ((slots[segment] * heads + head) * size * value_size + column) * 4
        held, held_stride = kept, value_size * 4
        if width % LANES != 0:
            # Whole vectors would reach into the next row.
            held, held_stride = scratch + 3 * COLUMNS * 4, COLUMNS * 4
            _copy_columns(kept, value_size * 4, held, held_stride, size, width)
        row = mixed + first * mixed_stride
        key_head = head // shared
        _walk(
            held,
            held_stride,
            row + key_head * size * 4,
            row + (key_heads + key_head) * size * 4,
            row + (2 * key_heads * size + head * value_size + column) * 4,
            mixed_stride,
            scalars + first * scalars_stride + head * 12,
            scalars_stride,
            out + first * out_stride + (head * value_size + column) * 4,
            out_stride,
            firsts[segment + 1] - first,
            size,
            width,
            scratch,
        )
        if width % LANES != 0:
            _copy_columns(held, held_stride, kept, value_size * 4, size, width)


def delta_rule(
    program: Program,
    mixed: Buffer,
    a: Buffer,
    b: Buffer,
    a_log: torch.Tensor,
    dt_bias: torch.Tensor,
    state: torch.Tensor,
    *,
    key_heads: int,
) -> Buffer:
    """Outputs (value heads * value size) of every token; updates `state`.

    `mixed` holds a token's queries and keys, (key heads * key size) each, which are brought to
    length in place, then its values, (value heads * value size). `a` and `b` are (value heads):
    decay = exp(-exp(a_log) softplus(a + dt_bias)), beta = sigmoid(b). `state` is (slots, value
    heads, key size, value size); value heads share key heads in consecutive groups.
    """
    _, heads, size, value_size = state.shape
    assert mixed.width == 2 * key_heads * size + heads * value_size
    scalars = program.buffer("decay, beta and q · k", heads * 3)
    out = program.buffer("delta rule's answers", heads * value_size)
    program.add(
        _prepare,
        mixed=mixed,
        a=a,
        b=b,
        rate=program.vector(a_log.float().exp()),
        dt_bias=program.vector(dt_bias),
        out=scalars,
        heads=key_heads,
        shared=heads // key_heads,
        size=size,
    )
    program.scratch((3 + size) * COLUMNS * 4)
    program.add(
        _delta_rule,
        mixed=mixed,
        scalars=scalars,
        out=out,
        state=state.data_ptr(),
        key_heads=key_heads,
        shared=heads // key_heads,
        size=size,
        value_size=value_size,
    )
    return out
