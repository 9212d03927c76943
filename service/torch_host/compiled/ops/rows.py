"""Copies and conversions of rows between two instructions."""

from service.torch_host.compiled import batch
from service.torch_host.compiled.codegen.operand import put_operand
from service.torch_host.compiled.codegen.scalars import int64s
from service.torch_host.compiled.formats.floats import FLOAT32
from service.torch_host.compiled.kernel import Buffer, Kernel
from service.torch_host.compiled.program import Program


@Kernel
def _move(batch_head, thread, threads, x, x_stride, width, out, out_stride, kind):
    tokens = int64s(batch_head)[batch.TOKENS]
    for token in range(tokens * thread // threads, tokens * (thread + 1) // threads):
        put_operand(kind, x + token * x_stride, out + token * out_stride, width)


def move(program: Program, x: Buffer, out: Buffer) -> None:
    """`out = x`, both float32."""
    program.add(_move, x=x, width=x.width, out=out, kind=FLOAT32)


def as_operand(program: Program, x: Buffer, name: str) -> Buffer:
    """The float32 rows of `x` as an operand of a matrix product."""
    out = program.operand_buffer(name, x.width)
    program.add(_move, x=x, width=x.width, out=out, kind=program.kind)
    return out
