"""Activation functions and gated multiplication, element-wise between two products."""

from enum import IntEnum

from numba import njit, types

from service.torch_host.compiled import batch
from service.torch_host.compiled.codegen.operand import put_operand
from service.torch_host.compiled.codegen.scalars import FAST, exp, float32s, int64s, sigmoid
from service.torch_host.compiled.formats.format import Format
from service.torch_host.compiled.kernel import Buffer, Kernel
from service.torch_host.compiled.program import Program
from service.torch_host.compiled.uncompilable import Uncompilable


class Activation(IntEnum):
    """The functions of gates and of plain MLPs."""

    SILU = 0
    GELU_TANH = 1
    RELU_SQUARED = 2
    GELU = 3
    """Exact: with the error function (arXiv 1606.08415)."""
    IDENTITY = 4


_NAMED = {
    "silu": Activation.SILU,
    "swish": Activation.SILU,
    "gelu_pytorch_tanh": Activation.GELU_TANH,
    "relu2": Activation.RELU_SQUARED,
    "gelu": Activation.GELU,
}


def activation_named(name: str) -> Activation:
    """By the name in a config. Raises Uncompilable if there is no kernel for it."""
    if name not in _NAMED:
        raise Uncompilable(f"there is no compiled kernel for the activation {name}")
    return _NAMED[name]


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
    elif function == 2:
        for i in range(width):
            v = max(source[i], types.float32(0.0))
            target[i] = v * v
    elif function == 3:
        for i in range(width):
            target[i] = _gelu(source[i])
    else:
        for i in range(width):
            target[i] = source[i]


@njit(fastmath=FAST)
def _multiply(row, values, factor, width):
    result, factors = float32s(row), float32s(values)
    for i in range(width):
        result[i] *= factors[i] * factor


@Kernel
def _act_and_mul(
    batch_head,
    thread,
    threads,
    gates,
    gates_stride,
    values,
    values_stride,
    width,
    out,
    out_stride,
    kind,
    function,
    rows_per_token,
    openings,
    openings_stride,
):
    fields = int64s(batch_head)
    scratch = fields[batch.SCRATCH] + thread * fields[batch.SCRATCH_BYTES]
    count = fields[batch.TOKENS] * rows_per_token
    for row in range(count * thread // threads, count * (thread + 1) // threads):
        activate_row(function, gates + row * gates_stride, scratch, width)
        if values != 0:
            opened = types.float32(1.0)
            if openings != 0:
                opened = sigmoid(float32s(openings + row * openings_stride)[0])
            _multiply(scratch, values + row * values_stride, opened, width)
        put_operand(kind, scratch, out + row * out_stride, width)


def act_and_mul(
    program: Program,
    gates: Buffer,
    values: Buffer | None,
    out: Buffer,
    function: Activation,
    *,
    openings: Buffer | None = None,
    rows_per_token: int = 1,
    kind: Format | None = None,
) -> None:
    """`out = function(gates) * values * sigmoid(opening)`; without values only the function.

    An opening is the first number of its row; without openings the factor is 1. `out` is the
    operand of a matrix product unless another kind is requested.
    """
    program.scratch(gates.width * 4)
    program.add(
        _act_and_mul,
        gates=gates,
        values=values,
        width=gates.width,
        out=out,
        kind=program.kind if kind is None else kind,
        function=function,
        rows_per_token=rows_per_token,
        openings=openings,
    )
