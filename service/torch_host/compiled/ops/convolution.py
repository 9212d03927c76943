"""Short causal convolution along the tokens, channel by channel, continued from a state."""

from collections.abc import Callable
from functools import cache
from typing import Any, Final

import torch
from numba import njit

from service.torch_host.compiled import batch
from service.torch_host.compiled.codegen.operand import put_operand
from service.torch_host.compiled.codegen.scalars import (
    FAST,
    float32s,
    from_bf16,
    int64s,
    sigmoid,
    to_bf16,
    uint16s,
)
from service.torch_host.compiled.kernel import Buffer, Kernel
from service.torch_host.compiled.program import Program

#: Channels that one thread convolves together.
_CHANNELS: Final = 128
#: Tokens whose inputs are held at once, so that they stay in the nearest cache.
_TOKENS: Final = 16


def _convolve(taps: int) -> Callable[..., Any]:
    """The convolution of some channels of one segment; the taps are a constant to the compiler."""

    @njit(fastmath=FAST, error_model="numpy")
    def load_state(state, half, window, count):
        """Write the state, (count, taps), into the window, one row of 128 per tap."""
        rows = float32s(window)
        if half != 0:
            halves = uint16s(state)
            for c in range(count):
                for k in range(taps):
                    rows[k * 128 + c] = from_bf16(halves[c * taps + k])
        else:
            values = float32s(state)
            for c in range(count):
                for k in range(taps):
                    rows[k * 128 + c] = values[c * taps + k]

    @njit(fastmath=FAST, error_model="numpy")
    def store_state(state, half, window, count):
        """Write the window's first rows into the state."""
        rows = float32s(window)
        if half != 0:
            halves = uint16s(state)
            for c in range(count):
                for k in range(taps):
                    halves[c * taps + k] = to_bf16(rows[k * 128 + c])
        else:
            values = float32s(state)
            for c in range(count):
                for k in range(taps):
                    values[c * taps + k] = rows[k * 128 + c]

    @njit(fastmath=FAST, error_model="numpy")
    def take(x, half, row, count):
        """Write one token's inputs into a row of the window."""
        source, target = float32s(x), float32s(row)
        if half != 0:
            # What the state cannot hold must not reach the result either: a later chunk, which
            # only has the state, would come out otherwise.
            for c in range(count):
                target[c] = from_bf16(to_bf16(source[c]))
        else:
            for c in range(count):
                target[c] = source[c]

    @njit(fastmath=FAST, error_model="numpy")
    def weigh(window, weight, channels, bias, out, silu, count):
        """Convolve one token, whose inputs are the last of the window's first rows."""
        rows, weights, biases = float32s(window), float32s(weight), float32s(bias)
        target = float32s(out)
        for c in range(count):
            total = biases[c]
            for k in range(taps):
                total += rows[k * 128 + c] * weights[k * channels + c]
            target[c] = total
        if silu != 0:
            for c in range(count):
                target[c] *= sigmoid(target[c])

    @njit
    def convolve(
        x,
        x_stride,
        out,
        out_stride,
        operand,
        operand_stride,
        kind,
        tokens,
        weight,
        bias,
        channels,
        state,
        half,
        silu,
        count,
        window,
    ):
        """`window` has room for rows of 128 inputs: those of the taps, then those of 16 tokens."""
        load_state(state, half, window, count)
        done, taken = 0, 0
        while done < tokens:
            if done > 0:
                for k in range(taps):
                    take(window + (taken + k) * 512, 0, window + k * 512, count)
            taken = min(16, tokens - done)
            for token in range(taken):
                row = window + (taps + token) * 512
                take(x + (done + token) * x_stride, half, row, count)
            for token in range(taken):
                target = out + (done + token) * out_stride
                weigh(window + (token + 1) * 512, weight, channels, bias, target, silu, count)
                if operand != 0:
                    put_operand(kind, target, operand + (done + token) * operand_stride, count)
            done += taken
        store_state(state, half, window + taken * 512, count)

    return convolve


@cache
def _convolution(taps: int) -> Kernel:
    convolve = _convolve(taps)

    def convolution(
        batch_head,
        thread,
        threads,
        x,
        x_stride,
        out,
        out_stride,
        channels,
        weight,
        bias,
        state,
        element,
        silu,
        operand,
        operand_stride,
        kind,
    ):
        fields = int64s(batch_head)
        firsts, slots = int64s(fields[batch.FIRST_TOKENS]), int64s(fields[batch.ROWS])
        blocks = (channels + 127) // 128
        items = fields[batch.SEGMENTS] * blocks
        window = fields[batch.SCRATCH] + thread * fields[batch.SCRATCH_BYTES]
        for item in range(items * thread // threads, items * (thread + 1) // threads):
            segment, channel = item // blocks, item % blocks * 128
            first = firsts[segment]
            wide = 2 if kind == 1 else 4
            convolve(
                x + first * x_stride + channel * 4,
                x_stride,
                out + first * out_stride + channel * 4,
                out_stride,
                0 if operand == 0 else operand + first * operand_stride + channel * wide,
                operand_stride,
                kind,
                firsts[segment + 1] - first,
                weight + channel * 4,
                bias + channel * 4,
                channels,
                state + (slots[segment] * channels + channel) * taps * element,
                1 if element == 2 else 0,
                silu,
                min(128, channels - channel),
                window,
            )

    return Kernel(convolution)


def convolution(
    program: Program,
    x: Buffer,
    out: Buffer,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    state: torch.Tensor,
    *,
    silu: bool,
    operand: Buffer | None = None,
) -> None:
    """Convolve each channel of `x` with its weights, (channels, taps), and keep its last inputs.

    `state` is (slots, channels, taps), the last inputs, the newest last; inputs are rounded to its
    type. `out` is float32 and must not be `x`; `operand` takes the same as a product's operand.
    """
    channels, taps = weight.shape
    assert state.shape[1:] == weight.shape
    program.scratch((taps + _TOKENS) * _CHANNELS * 4)
    program.add(
        _convolution(taps),
        x=x,
        out=out,
        channels=channels,
        weight=program.vector(weight.t()),
        bias=program.vector(torch.zeros(channels) if bias is None else bias),
        state=state.data_ptr(),
        element=state.element_size(),
        silu=silu,
        operand=operand,
        kind=program.kind,
    )
