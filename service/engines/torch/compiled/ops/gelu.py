"""The exact GELU (arXiv 1606.08415) as the gate of an MLP: with the error function, not a tanh."""

from numba import njit, types

from service.engines.torch.compiled.ops.operand import put_operand
from service.engines.torch.compiled.program import Buffer, Kernel, Program
from service.engines.torch.compiled.vectors import FAST, exp, float32s, int64s


@njit(inline="always", fastmath=FAST, error_model="numpy")
def _gelu(value):
    """`value * Φ(value)`, the tail of Φ by Abramowitz and Stegun 7.1.26, to 1e-7 of `value`."""
    size = abs(value)
    t = types.float32(1.0) / (types.float32(1.0) + types.float32(0.23164189) * size)
    y = types.float32(0.5307027145)
    y = y * t - types.float32(0.7265760135)
    y = y * t + types.float32(0.7107068705)
    y = y * t - types.float32(0.142248368)
    y = y * t + types.float32(0.127414796)
    tail = y * t * exp(types.float32(-0.5) * value * value)
    return max(value, types.float32(0.0)) - size * tail


@Kernel
def _gelu_gate(address, thread, threads):
    p = int64s(address)
    batch = int64s(p[0])
    gates, gate_stride, values, value_stride, width = p[1], p[2], p[3], p[4], p[5]
    out, out_stride, kind = p[6], p[7], p[8]
    scratch = batch[16] + thread * batch[17]
    row = float32s(scratch)
    tokens = batch[0]
    for token in range(tokens * thread // threads, tokens * (thread + 1) // threads):
        gate, value = float32s(gates + token * gate_stride), float32s(values + token * value_stride)
        for i in range(width):
            row[i] = _gelu(gate[i]) * value[i]
        put_operand(kind, scratch, out + token * out_stride, width)


def gelu_gate(program: Program, gates: Buffer, values: Buffer, out: Buffer) -> None:
    """`out = gelu(gates) * values`, a product's operand."""
    program.scratch(gates.width * 4)
    program.add(
        _gelu_gate,
        gates.address,
        gates.stride,
        values.address,
        values.stride,
        gates.width,
        out.address,
        out.stride,
        program.kind,
    )
