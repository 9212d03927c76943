"""Activation functions and gates between two matrix products."""

from enum import IntEnum

from numba import njit, types

from service.engines.torch.compiled.ops.operand import put_operand
from service.engines.torch.compiled.program import Buffer, Kernel, Program, Uncompilable
from service.engines.torch.compiled.vectors import FAST, float32s, int64s, sigmoid


class Activation(IntEnum):
    """The functions that gated and plain MLPs use."""

    SILU = 0
    GELU_TANH = 1
    RELU_SQUARED = 2


_NAMED = {
    "silu": Activation.SILU,
    "swish": Activation.SILU,
    "gelu_pytorch_tanh": Activation.GELU_TANH,
    "relu2": Activation.RELU_SQUARED,
}


def activation_named(name: str) -> Activation:
    """By the name in a config. Raises Uncompilable if there is no kernel for it."""
    if name not in _NAMED:
        raise Uncompilable(f"there is no compiled kernel for the activation {name}")
    return _NAMED[name]


@njit(fastmath=FAST, error_model="numpy")
def activate_row(function, x, out, width):
    """Apply an `Activation` to `width` float32 values at `x`."""
    source, target = float32s(x), float32s(out)
    if function == 0:
        for i in range(width):
            target[i] = source[i] * sigmoid(source[i])
    elif function == 1:
        # 0.5 (1 + tanh z) is the logistic function of 2 z.
        for i in range(width):
            v = source[i]
            z = types.float32(1.5957691216057308) * (v + types.float32(0.044715) * v * v * v)
            target[i] = v * sigmoid(z)
    else:
        for i in range(width):
            v = max(source[i], types.float32(0.0))
            target[i] = v * v


@Kernel
def _gate(address, thread, threads):
    p = int64s(address)
    batch = int64s(p[0])
    gates, gate_stride, values, value_stride, width = p[1], p[2], p[3], p[4], p[5]
    out, out_stride, kind, function, rows_per_token = p[6], p[7], p[8], p[9], p[10]
    scratch = batch[16] + thread * batch[17]
    count = batch[0] * rows_per_token
    for row in range(count * thread // threads, count * (thread + 1) // threads):
        activate_row(function, gates + row * gate_stride, scratch, width)
        if values != 0:
            result, factors = float32s(scratch), float32s(values + row * value_stride)
            for i in range(width):
                result[i] *= factors[i]
        put_operand(kind, scratch, out + row * out_stride, width)


def gate(
    program: Program,
    gates: Buffer,
    values: Buffer | None,
    out: Buffer,
    function: Activation,
    *,
    rows_per_token: int = 1,
) -> None:
    """`out = function(gates) * values`, a product's operand; without values only the function."""
    program.scratch(gates.width * 4)
    program.add(
        _gate,
        gates.address,
        gates.stride,
        values.address if values else 0,
        values.stride if values else 0,
        gates.width,
        out.address,
        out.stride,
        program.kind,
        function,
        rows_per_token,
    )
