"""The gate of a shared expert: one opening a token for all that the expert makes."""

from numba import njit

from service.engines.torch.compiled.ops.gates import Activation, activate_row
from service.engines.torch.compiled.ops.operand import put_operand
from service.engines.torch.compiled.program import Buffer, Kernel, Program
from service.engines.torch.compiled.vectors import FAST, float32s, int64s, sigmoid


@njit(fastmath=FAST)
def _multiply(row, values, factor, width):
    result, factors = float32s(row), float32s(values)
    for i in range(width):
        result[i] *= factors[i] * factor


@Kernel
def _gate_shared(address, thread, threads):
    p = int64s(address)
    batch = int64s(p[0])
    gates, gate_stride, values, value_stride, width = p[1], p[2], p[3], p[4], p[5]
    openings, opening_stride, out, out_stride, kind, function = p[6], p[7], p[8], p[9], p[10], p[11]
    scratch = batch[16] + thread * batch[17]
    tokens = batch[0]
    for token in range(tokens * thread // threads, tokens * (thread + 1) // threads):
        activate_row(function, gates + token * gate_stride, scratch, width)
        factor = sigmoid(float32s(openings + token * opening_stride)[0])
        _multiply(scratch, values + token * value_stride, factor, width)
        put_operand(kind, scratch, out + token * out_stride, width)


def gate_shared(
    program: Program,
    gates: Buffer,
    values: Buffer,
    openings: Buffer,
    out: Buffer,
    function: Activation,
) -> None:
    """`out = function(gates) * values * sigmoid(opening)`, a product's operand.

    A token's opening is the first of its row. It belongs to what the expert's last matrix makes,
    but scales what goes into it just as well, because no bias is added there.
    """
    program.scratch(gates.width * 4)
    program.add(
        _gate_shared,
        gates.address,
        gates.stride,
        values.address,
        values.stride,
        gates.width,
        openings.address,
        openings.stride,
        out.address,
        out.stride,
        program.kind,
        function,
    )
