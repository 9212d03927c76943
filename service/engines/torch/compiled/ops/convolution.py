"""Short causal convolution along the tokens, channel by channel, continued from a state."""

import torch
from numba import njit, types

from service.engines.torch.compiled.program import Buffer, Kernel, Program
from service.engines.torch.compiled.vectors import (
    FAST,
    float32s,
    from_bf16,
    int64s,
    sigmoid,
    to_bf16,
    uint16s,
)

#: Channels that one thread convolves together.
_CHANNELS = 64


@njit(fastmath=FAST)
def _convolve(
    x,
    x_stride,
    out,
    out_stride,
    tokens,
    weight,
    bias,
    taps,
    channels,
    count,
    state,
    half,
    silu,
    past,
):
    """Some channels of one segment. `past` has room for (taps, 64) inputs, the oldest first."""
    history, weights = float32s(past), float32s(weight)
    for c in range(count):
        for k in range(taps):
            if half != 0:
                history[k * 64 + c] = from_bf16(uint16s(state)[c * taps + k])
            else:
                history[k * 64 + c] = float32s(state)[c * taps + k]
    for token in range(tokens):
        source, target = float32s(x + token * x_stride), float32s(out + token * out_stride)
        for k in range(taps - 1):
            for c in range(count):
                history[k * 64 + c] = history[(k + 1) * 64 + c]
        last = (taps - 1) * 64
        if half != 0:
            # What the state could not hold must not reach the result either: a later chunk, which
            # only has the state, would come out otherwise.
            for c in range(count):
                history[last + c] = from_bf16(to_bf16(source[c]))
        else:
            for c in range(count):
                history[last + c] = source[c]
        if bias != 0:
            biases = float32s(bias)
            for c in range(count):
                target[c] = biases[c]
        else:
            for c in range(count):
                target[c] = types.float32(0.0)
        for k in range(taps):
            for c in range(count):
                target[c] += history[k * 64 + c] * weights[k * channels + c]
        if silu != 0:
            for c in range(count):
                target[c] *= sigmoid(target[c])
    for c in range(count):
        for k in range(taps):
            if half != 0:
                uint16s(state)[c * taps + k] = to_bf16(history[k * 64 + c])
            else:
                float32s(state)[c * taps + k] = history[k * 64 + c]


@Kernel
def _convolution(address, thread, threads):
    p = int64s(address)
    batch = int64s(p[0])
    x, x_stride, out, out_stride, channels, taps = p[1], p[2], p[3], p[4], p[5], p[6]
    weight, bias, state, element, silu = p[7], p[8], p[9], p[10], p[11]
    firsts, slots = int64s(batch[5]), int64s(batch[6])
    blocks = (channels + 63) // 64
    items = batch[1] * blocks
    past = batch[16] + thread * batch[17]
    for item in range(items * thread // threads, items * (thread + 1) // threads):
        segment, channel = item // blocks, item % blocks * 64
        first = firsts[segment]
        _convolve(
            x + first * x_stride + channel * 4,
            x_stride,
            out + first * out_stride + channel * 4,
            out_stride,
            firsts[segment + 1] - first,
            weight + channel * 4,
            0 if bias == 0 else bias + channel * 4,
            taps,
            channels,
            min(64, channels - channel),
            state + (slots[segment] * channels + channel) * taps * element,
            1 if element == 2 else 0,
            silu,
            past,
        )


def convolution(
    program: Program,
    x: Buffer,
    out: Buffer,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    state: torch.Tensor,
    *,
    silu: bool,
) -> None:
    """Convolve each channel of `x` with its weights, (channels, taps), and remember the inputs.

    `state` is (slots, channels, taps), the last inputs. `out` must not be `x`.
    """
    channels, taps = weight.shape
    assert state.shape[1:] == weight.shape
    program.scratch(taps * _CHANNELS * 4)
    program.add(
        _convolution,
        x.address,
        x.stride,
        out.address,
        out.stride,
        channels,
        taps,
        program.vector(weight.t()),
        program.vector(bias),
        state.data_ptr(),
        state.element_size(),
        silu,
    )
