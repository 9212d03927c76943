"""LLVM code of 16 float32 lanes, as kernels' inner loops are written: memory, arithmetic, loops.

numba has no vector types; LLVM, which numba drives, has. It splits these vectors where the
processor's are shorter.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

from llvmlite import ir
from numba.core import cgutils

#: Columns that lie side by side in a packed matrix, and numbers in a vector.
LANES: Final = 16

I32: Final = ir.IntType(32)
I64: Final = ir.IntType(64)
F32: Final = ir.FloatType()
WORDS: Final = ir.VectorType(I32, LANES)
FLOATS: Final = ir.VectorType(F32, LANES)
HALVES: Final = ir.VectorType(ir.HalfType(), LANES)
ZERO: Final = ir.Constant(FLOATS, [0.0] * LANES)


def long(value: int) -> ir.Constant:
    """An int64 constant."""
    return ir.Constant(I64, value)


def words(value: int) -> ir.Constant:
    """A vector of one int32."""
    return ir.Constant(WORDS, [value] * LANES)


def floats(value: float) -> ir.Constant:
    """A vector of one float32."""
    return ir.Constant(FLOATS, [value] * LANES)


def plus(builder: Any, address: Any, stride: Any, times: Any) -> Any:
    """`address + stride * times`; a number of times or a stride may be a Python int."""
    stride, times = (long(v) if isinstance(v, int) else v for v in (stride, times))
    return builder.add(address, builder.mul(stride, times))


def load(builder: Any, address: Any, kind: ir.Type = FLOATS) -> Any:
    """Load from an address, aligned to at least four bytes."""
    return builder.load(builder.inttoptr(address, kind.as_pointer()), align=4)


def store(builder: Any, value: Any, address: Any, *, align: int = 4) -> None:
    """Write a value to an address."""
    builder.store(value, builder.inttoptr(address, value.type.as_pointer()), align=align)


def splat(builder: Any, value: Any) -> Any:
    """Broadcast a number to every lane."""
    kind = ir.VectorType(value.type, LANES)
    undefined = ir.Constant(kind, ir.Undefined)
    first = builder.insert_element(undefined, value, ir.Constant(I32, 0))
    return builder.shuffle_vector(first, undefined, words(0))


def spread(builder: Any, address: Any, kind: ir.Type = F32) -> Any:
    """Load a number and broadcast it to every lane."""
    return splat(builder, load(builder, address, kind))


def halves(builder: Any, address: Any) -> Any:
    """The float16 numbers at an address, as float32."""
    return builder.fpext(load(builder, address, HALVES), FLOATS)


def call(builder: Any, name: str, *operands: Any) -> Any:
    """An LLVM function of float32 vectors, by its name without the type."""
    kind = ir.FunctionType(FLOATS, [FLOATS] * len(operands))
    function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.{name}.v{LANES}f32")
    return builder.call(function, operands)


def fma(builder: Any, a: Any, b: Any, c: Any) -> Any:
    """`a * b + c`, rounded once."""
    return call(builder, "fma", a, b, c)


def sum_of(builder: Any, vector: Any) -> Any:
    """The sum of a vector's lanes, pair by pair."""
    kind = ir.FunctionType(F32, [F32, FLOATS])
    name = f"llvm.vector.reduce.fadd.v{LANES}f32"
    add = cgutils.get_or_insert_function(builder.module, kind, name)
    return builder.call(add, [ir.Constant(F32, -0.0), vector], fastmath=("reassoc",))


def prefetch(builder: Any, address: Any) -> None:
    """Fetch the cache line of an address, which may lie beyond all memory."""
    byte = ir.IntType(8).as_pointer()
    kind = ir.FunctionType(ir.VoidType(), [byte, I32, I32, I32])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    read, keep, data = (ir.Constant(I32, value) for value in (0, 3, 1))
    builder.call(function, [builder.inttoptr(address, byte), read, keep, data])


def loop(
    builder: Any,
    count: Any,
    begin: Sequence[Any],
    body: Callable[[Any, list[Any]], Sequence[Any]],
) -> list[Any]:
    """`carried = body(index, carried)` for each index below `count`, at least once."""
    before = builder.block
    inside = builder.append_basic_block("loop")
    after = builder.append_basic_block("loop.end")
    builder.branch(inside)
    builder.position_at_end(inside)
    index = builder.phi(I64)
    index.add_incoming(long(0), before)
    carried = [builder.phi(value.type) for value in begin]
    for value, first in zip(carried, begin, strict=True):
        value.add_incoming(first, before)
    results = body(index, carried)
    following = builder.add(index, long(1))
    index.add_incoming(following, builder.block)
    for value, result in zip(carried, results, strict=True):
        value.add_incoming(result, builder.block)
    builder.cbranch(builder.icmp_signed("<", following, count), inside, after)
    builder.position_at_end(after)
    return list(results)
