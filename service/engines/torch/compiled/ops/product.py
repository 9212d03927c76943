"""Products of two activations, element by element."""

from numba import njit

from service.engines.torch.compiled.ops.operand import put_operand
from service.engines.torch.compiled.program import Buffer, Kernel, Kind, Program
from service.engines.torch.compiled.vectors import FAST, float32s, int64s


@njit(fastmath=FAST)
def _multiply(x, y, out, width):
    one, other, target = float32s(x), float32s(y), float32s(out)
    for i in range(width):
        target[i] = one[i] * other[i]


@Kernel
def _product(address, thread, threads):
    p = int64s(address)
    batch = int64s(p[0])
    x, x_stride, y, y_stride, width, out, out_stride, kind = (
        p[1],
        p[2],
        p[3],
        p[4],
        p[5],
        p[6],
        p[7],
        p[8],
    )
    scratch = batch[16] + thread * batch[17]
    tokens = batch[0]
    for token in range(tokens * thread // threads, tokens * (thread + 1) // threads):
        _multiply(x + token * x_stride, y + token * y_stride, scratch, width)
        put_operand(kind, scratch, out + token * out_stride, width)


def product(program: Program, x: Buffer, y: Buffer, out: Buffer, kind: Kind) -> None:
    """`out = x * y`, stored as `kind`: what enters a matrix product, or float32."""
    program.scratch(x.width * 4)
    program.add(
        _product,
        x.address,
        x.stride,
        y.address,
        y.stride,
        x.width,
        out.address,
        out.stride,
        kind,
    )
