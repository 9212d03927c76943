"""A token's step of Mamba-1's selective scan for 16 channels, as LLVM vectors.

The lanes are channels, so that a state is as many vectors as it has numbers for a channel and
nothing is summed across lanes. Slots keep a channel's numbers together; `turn` exchanges the two.
"""

from typing import Any, Final

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from service.torch_host.compiled.codegen.debug_mode import MEMORY, in_python
from service.torch_host.compiled.codegen.lane_functions import LaneFunctions
from service.torch_host.compiled.codegen.lanes import (
    LANES,
    WORDS,
    fma,
    load,
    long,
    loop,
    plus,
    prefetch,
    spread,
    store,
)
from service.torch_host.compiled.codegen.scalars import to_bf16

#: Tokens whose inputs are fetched ahead: they lie a row apart, where the processor expects nothing.
_PREFETCH_TOKENS: Final = 4


def _write_step(builder: Any, operands: Any) -> None:
    """Write the LLVM code of `step`."""
    hidden_at, hidden_stride, delta_at, delta_stride, gate_at, gate_stride = operands[:6]
    bias_at, skip_at, decay_at, state_at, inputs_at, outputs_at, states, out_at, half = operands[6:]
    lanes = LaneFunctions(builder)
    for address, stride in (
        (hidden_at, hidden_stride),
        (delta_at, delta_stride),
        (gate_at, gate_stride),
    ):
        prefetch(builder, plus(builder, address, stride, _PREFETCH_TOKENS))
    hidden = load(builder, hidden_at)
    delta = lanes.softplus(builder.fadd(load(builder, delta_at), load(builder, bias_at)))
    driven = builder.fmul(delta, hidden)
    skipped = builder.fmul(hidden, load(builder, skip_at))

    def advance(index: Any, totals: Any) -> Any:
        number, row = builder.mul(index, long(4)), builder.mul(index, long(4 * LANES))
        decay = load(builder, builder.add(decay_at, row))
        kept = lanes.exp2(builder.fmul(delta, decay))
        place = builder.add(state_at, row)
        new = builder.fmul(driven, spread(builder, builder.add(inputs_at, number)))
        state = fma(builder, load(builder, place), kept, new)
        store(builder, state, place)
        return [fma(builder, state, spread(builder, builder.add(outputs_at, number)), totals[0])]

    (mixed,) = loop(builder, states, [skipped], advance)
    result = builder.fmul(mixed, lanes.silu(load(builder, gate_at)))
    with builder.if_else(builder.icmp_signed("!=", half, long(0))) as (halves, whole):
        with halves:
            store(builder, lanes.to_bf16(result), out_at, align=2)
        with whole:
            store(builder, result, out_at)


def _interpreted_step(  # the operands of `step`
    hidden,
    hidden_stride,
    delta,
    delta_stride,
    gate,
    gate_stride,
    bias,
    skip,
    decay,
    state,
    inputs,
    outputs,
    states,
    out,
    half,
):
    lanes = [MEMORY.array(at, np.float32, LANES) for at in (hidden, delta, gate, bias, skip)]
    x, steps, gates, biases, skips = lanes
    steps = np.logaddexp(np.float32(0), steps + biases)
    powers, kept = (
        MEMORY.array(at, np.float32, LANES * states).reshape(-1, LANES) for at in (decay, state)
    )
    b, c = (MEMORY.array(at, np.float32, states) for at in (inputs, outputs))
    kept[:] = kept * np.exp2(steps * powers) + b[:, None] * (steps * x)
    result = (x * skips + c @ kept) * gates / (1 + np.exp(-gates))
    if half:
        MEMORY.array(out, np.uint16, LANES)[:] = [to_bf16(value) for value in result]
    else:
        MEMORY.array(out, np.float32, LANES)[:] = result


def _interpreted_turn(source, source_stride, target, target_stride):
    rows = [MEMORY.array(source + i * source_stride, np.float32, LANES) for i in range(LANES)]
    for row, column in enumerate(np.stack(rows).T):
        MEMORY.array(target + row * target_stride, np.float32, LANES)[:] = column


@in_python(_interpreted_step)
@intrinsic
def step(
    typing_context,
    hidden,
    hidden_stride,
    delta,
    delta_stride,
    gate,
    gate_stride,
    bias,
    skip,
    decay,
    state,
    inputs,
    outputs,
    states,
    out,
    half,
):
    """Advance the states of 16 channels by one token.

    Operands are addresses and, of what is read token by token, strides in bytes. Decay, A times
    log2(e), and state are (states, 16); inputs (B) and outputs (C) are (states,), states ≥ 1; the
    rest is (16,). `out` is bfloat16 if `half` is not 0, else float32.
    """

    def generate(context, builder, signature, operands):
        _write_step(builder, operands)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 15), generate


@in_python(_interpreted_turn)
@intrinsic
def turn(typing_context, source, source_stride, target, target_stride):
    """Transpose 16 by 16 numbers; strides in bytes."""

    def generate(context, builder, signature, operands):
        source, source_stride, target, target_stride = operands
        rows = [load(builder, plus(builder, source, source_stride, row)) for row in range(LANES)]
        for distance in (8, 4, 2, 1):
            own = [
                lane if not lane & distance else LANES + lane - distance for lane in range(LANES)
            ]
            other = [
                lane + distance if not lane & distance else LANES + lane for lane in range(LANES)
            ]
            for row in (row for row in range(LANES) if not row & distance):
                pair = rows[row], rows[row + distance]
                rows[row], rows[row + distance] = (
                    builder.shuffle_vector(*pair, ir.Constant(WORDS, mask)) for mask in (own, other)
                )
        for row in range(LANES):
            store(builder, rows[row], plus(builder, target, target_stride, row))
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4), generate
