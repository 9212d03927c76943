"""Mamba-1's selective scan (arXiv 2312.00752, algorithm 2), continued from a state."""

import math
from typing import Final, NamedTuple

import torch
from numba import njit

from service.torch_host.compiled import batch
from service.torch_host.compiled.codegen.lanes import LANES
from service.torch_host.compiled.codegen.operand import put_operand
from service.torch_host.compiled.codegen.scalars import FAST, float32s, int64s, number
from service.torch_host.compiled.kernel import Buffer, Float32, Kernel
from service.torch_host.compiled.ops.norms import rms_norm_row
from service.torch_host.compiled.ops.selective_step import step, turn
from service.torch_host.compiled.program import Program
from service.torch_host.compiled.uncompilable import Uncompilable

#: Channels that one thread advances together: a row's part is then worth fetching.
_CHANNELS: Final = 64


class Norms(NamedTuple):
    """RMS norms of a token's selected parameters; None for a norm without weights."""

    delta: torch.Tensor | None
    inputs: torch.Tensor | None
    outputs: torch.Tensor | None
    eps: float


class Selected(NamedTuple):
    """Per-token parameters of a scan."""

    delta: Buffer
    """The operand whose product is delta, before its bias: (tokens, rank rounded up to pairs)."""
    inputs: Buffer
    """B, (tokens, states)."""
    outputs: Buffer
    """C, (tokens, states)."""


@Kernel
def _select(
    batch_head,
    thread,
    threads,
    x,
    x_stride,
    rank,
    states,
    out,
    out_stride,
    kind,
    normed,
    delta_norm,
    inputs_norm,
    outputs_norm,
    eps: Float32,
):
    fields = int64s(batch_head)
    eps = number(eps)
    scratch = fields[batch.SCRATCH] + thread * fields[batch.SCRATCH_BYTES]
    tokens, width = fields[batch.TOKENS], rank + rank % 2
    float32s(scratch)[width - 1] = 0.0
    for token in range(tokens * thread // threads, tokens * (thread + 1) // threads):
        row = x + token * x_stride
        if normed != 0:
            rms_norm_row(row, delta_norm, scratch, rank, eps)
            rms_norm_row(row + rank * 4, inputs_norm, row + rank * 4, states, eps)
            last = row + (rank + states) * 4
            rms_norm_row(last, outputs_norm, last, states, eps)
        else:
            source, target = float32s(row), float32s(scratch)
            for i in range(rank):
                target[i] = source[i]
        put_operand(kind, scratch, out + token * out_stride, width)


def select(program: Program, x: Buffer, rank: int, states: int, norms: Norms | None) -> Selected:
    """Split the rows of `x`, in place, into the input of delta's projection, B and C."""
    width = rank + rank % 2
    out = program.operand_buffer("delta of rank", width)
    program.scratch(width * 4)
    program.add(
        _select,
        x=x,
        rank=rank,
        states=states,
        out=out,
        kind=program.kind,
        normed=norms is not None,
        delta_norm=program.vector(norms.delta if norms else None),
        inputs_norm=program.vector(norms.inputs if norms else None),
        outputs_norm=program.vector(norms.outputs if norms else None),
        eps=norms.eps if norms else 0.0,
    )
    return Selected(out, x.columns(rank, states), x.columns(rank + states, states))


@njit(fastmath=FAST, error_model="numpy")
def _turned(source, target, states):
    """Write the states of 16 channels, (16, states), as (states, 16)."""
    if states % 16 == 0:
        for first in range(0, states, 16):
            turn(source + first * 4, states * 4, target + first * 64, 64)
    else:
        values, lanes = float32s(source), float32s(target)
        for n in range(states):
            for c in range(16):
                lanes[n * 16 + c] = values[c * states + n]


@njit(fastmath=FAST, error_model="numpy")
def _turned_back(source, target, states):
    """Write the states of 16 channels, (states, 16), as (16, states)."""
    if states % 16 == 0:
        for first in range(0, states, 16):
            turn(source + first * 64, 64, target + first * 4, states * 4)
    else:
        lanes, values = float32s(source), float32s(target)
        for c in range(16):
            for n in range(states):
                values[c * states + n] = lanes[n * 16 + c]


@Kernel
def _scan(
    batch_head,
    thread,
    threads,
    hidden,
    hidden_stride,
    delta,
    delta_stride,
    gate,
    gate_stride,
    selected,
    selected_stride,
    channels,
    states,
    bias,
    skip,
    decay,
    state,
    out,
    out_stride,
    kind,
):
    fields = int64s(batch_head)
    half = 1 if kind == 1 else 0
    wide = 2 if half != 0 else 4
    firsts, slots = int64s(fields[batch.FIRST_TOKENS]), int64s(fields[batch.ROWS])
    scratch = fields[batch.SCRATCH] + thread * fields[batch.SCRATCH_BYTES]
    blocks = (channels + 63) // 64
    items = fields[batch.SEGMENTS] * blocks
    for item in range(items * thread // threads, items * (thread + 1) // threads):
        segment, begin = item // blocks, item % blocks * 64
        end = min(begin + 64, channels)
        kept = state + slots[segment] * channels * states * 4
        for c in range(begin, end, 16):
            _turned(kept + c * states * 4, scratch + (c - begin) * states * 4, states)
        for token in range(firsts[segment], firsts[segment + 1]):
            inputs = selected + token * selected_stride
            for c in range(begin, end, 16):
                step(
                    hidden + token * hidden_stride + c * 4,
                    hidden_stride,
                    delta + token * delta_stride + c * 4,
                    delta_stride,
                    gate + token * gate_stride + c * 4,
                    gate_stride,
                    bias + c * 4,
                    skip + c * 4,
                    decay + c * states * 4,
                    scratch + (c - begin) * states * 4,
                    inputs,
                    inputs + states * 4,
                    states,
                    out + token * out_stride + c * wide,
                    half,
                )
        for c in range(begin, end, 16):
            _turned_back(scratch + (c - begin) * states * 4, kept + c * states * 4, states)


def selective_scan(
    program: Program,
    hidden: Buffer,
    delta: Buffer,
    gate: Buffer,
    selected: Selected,
    *,
    decay: torch.Tensor,
    delta_bias: torch.Tensor,
    skip: torch.Tensor,
    state: torch.Tensor,
) -> Buffer:
    """`(C · state + skip * hidden) * silu(gate)`, a product's operand.

    Of each channel, `state = exp(softplus(delta + bias) * decay) * state + softplus(…) * hidden *
    B`. `decay` (A) is (channels, states), `delta_bias` and `skip` (D) are (channels,), `state` is
    (slots, channels, states). Raises Uncompilable if the channels are not whole vectors of 16.
    """
    channels, states = decay.shape
    if channels % LANES:
        raise Uncompilable(f"{channels} channels are not whole vectors of {LANES}")
    assert state.shape[1:] == decay.shape
    assert selected.outputs.address == selected.inputs.address + states * 4
    out = program.operand_buffer("scanned", channels)
    program.scratch(_CHANNELS * states * 4)
    powers = decay.double() * math.log2(math.e)
    program.add(
        _scan,
        hidden=hidden,
        delta=delta,
        gate=gate,
        selected=selected.inputs,
        channels=channels,
        states=states,
        bias=program.vector(delta_bias),
        skip=program.vector(skip),
        decay=program.vector(powers.view(-1, LANES, states).transpose(1, 2)),
        state=state.data_ptr(),
        out=out,
        kind=program.kind,
    )
    return out
