"""What kernels are made of: typed memory, bfloat16, a vectorizable exponential, and the tile.

Kernels are compiled by numba, which has no vector types, no bfloat16 and no pointers; LLVM, which
numba drives, has them all. A *tile* is the inner loop of every matrix product here: a few rows of
activations times up to 64 columns of a matrix whose columns lie 16 by 16 side by side, all sums in
registers. It is written as LLVM vectors of 16, which LLVM splits where the processor's are shorter.
"""

from collections.abc import Callable
from itertools import chain
from typing import Any, Final

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from service.engines.torch.compiled.machine import has_bf16_dot

#: Columns that lie side by side in a packed matrix.
LANES: Final = 16

#: Rounding may be reassociated and contracted, but infinities and NaN keep their meaning: a model
#: that produces them must be found out.
FAST: Final = {"contract", "reassoc", "nsz", "arcp", "afn"}

#: How far ahead a tile fetches its matrix, which it reads as one stream.
_PREFETCH_BYTES: Final = 4096

_I32, _I64 = ir.IntType(32), ir.IntType(64)
_F32 = ir.FloatType()
_16I32 = ir.VectorType(_I32, LANES)
_16F32 = ir.VectorType(_F32, LANES)
_FIRST_LANE: Final = ir.Constant(_16I32, [0] * LANES)
_HIGH_HALVES: Final = ir.Constant(_16I32, [0xFFFF0000] * LANES)
_SIXTEEN: Final = ir.Constant(_16I32, [16] * LANES)


class _BFloat(ir.Type):  # type: ignore[misc]
    """LLVM's bfloat, which llvmlite does not name."""

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _BFloat)

    def __hash__(self) -> int:
        return hash(_BFloat)


_32BF16 = ir.VectorType(_BFloat(), 2 * LANES)


def _pointer(element: types.Type) -> Callable[..., Any]:
    """An intrinsic that takes an address for a pointer to elements of a type."""

    @intrinsic
    def pointer(typing_context: Any, address: Any) -> Any:
        result = types.CPointer(element)

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.inttoptr(arguments[0], context.get_value_type(result))

        return result(types.int64), generate

    return pointer


int64s = _pointer(types.int64)
float32s = _pointer(types.float32)
uint16s = _pointer(types.uint16)
int8s = _pointer(types.int8)
uint8s = _pointer(types.uint8)


@intrinsic
def _bits_to_float(typing_context, bits):
    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], _F32)

    return types.float32(types.int32), generate


@intrinsic
def _float_to_bits(typing_context, value):
    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], _I32)

    return types.int32(types.float32), generate


@intrinsic
def nearest(typing_context, value):
    """The nearest whole number of a float32, as float32."""

    def generate(context, builder, signature, arguments):
        kind = ir.FunctionType(_F32, [_F32])
        rint = cgutils.get_or_insert_function(builder.module, kind, "llvm.rint.f32")
        return builder.call(rint, arguments)

    return types.float32(types.float32), generate


@njit(inline="always")
def from_bf16(half):
    """float32 of a bfloat16 given as its 16 bits."""
    return _bits_to_float(types.int32(types.uint32(half) << types.uint32(16)))


@njit(inline="always")
def to_bf16(value):
    """The 16 bits of the nearest bfloat16, ties to even."""
    bits = types.uint32(_float_to_bits(types.float32(value)))
    odd = (bits >> types.uint32(16)) & types.uint32(1)
    return types.uint16((bits + types.uint32(0x7FFF) + odd) >> types.uint32(16))


@njit(inline="always")
def number(operand):
    """The float32 whose bits an int64 operand holds."""
    return _bits_to_float(types.int32(operand))


@njit(inline="always", fastmath=FAST)
def exp(value):
    """E to the power of a float32, to about 1e-7 of it; a loop over it becomes vectors.

    Range reduction and polynomial as in Cephes' expf.
    """
    x = min(max(types.float32(value), types.float32(-87.0)), types.float32(88.0))
    whole = nearest(x * types.float32(1.44269504088896341))
    rest = x - whole * types.float32(0.693359375) + whole * types.float32(2.12194440e-4)
    y = types.float32(1.9875691500e-4)
    y = y * rest + types.float32(1.3981999507e-3)
    y = y * rest + types.float32(8.3334519073e-3)
    y = y * rest + types.float32(4.1665795894e-2)
    y = y * rest + types.float32(1.6666665459e-1)
    y = y * rest + types.float32(5.0000001201e-1)
    y = y * rest * rest + rest + types.float32(1.0)
    power = (types.int32(whole) + types.int32(127)) << types.int32(23)
    return y * _bits_to_float(power)


@njit(inline="always", fastmath=FAST)
def sigmoid(value):
    """Logistic function of a float32."""
    return types.float32(1.0) / (types.float32(1.0) + exp(-value))


def _constant(value: int) -> ir.Constant:
    return ir.Constant(_I64, value)


class _TileWriter:
    """Writes a tile's loop: `rows` by `panels` sums of 16 lanes, `steps` steps deep."""

    def __init__(self, kind: str, rows: int, panels: int) -> None:
        self.kind = kind
        self.rows = rows
        self.panels = panels

    def write(self, builder: Any, arguments: Any) -> None:
        """The loop, then the sums' way into memory; the builder goes on after it."""
        x, x_stride, w, panel_stride, step_stride, steps, out, out_stride, scale, add = arguments
        before = builder.block
        loop = builder.append_basic_block("tile")
        after = builder.append_basic_block("tile.end")
        builder.branch(loop)
        builder.position_at_end(loop)
        step = builder.phi(_I64)
        step.add_incoming(_constant(0), before)
        zero = ir.Constant(_16F32, [0.0] * LANES)
        sums = [[builder.phi(_16F32) for _ in range(self.panels)] for _ in range(self.rows)]
        for total in chain.from_iterable(sums):
            total.add_incoming(zero, before)
        here = builder.add(w, builder.mul(step, step_stride))
        matrix = [
            self._matrix(builder, builder.add(here, builder.mul(panel_stride, _constant(panel))))
            for panel in range(self.panels)
        ]
        at = builder.mul(step, _constant(4))
        grown = []
        for row in range(self.rows):
            address = builder.add(builder.add(x, builder.mul(x_stride, _constant(row))), at)
            values = self._values(builder, address)
            grown.append(
                [
                    self._add_product(builder, sums[row][panel], values, matrix[panel])
                    for panel in range(self.panels)
                ]
            )
        following = builder.add(step, _constant(1))
        step.add_incoming(following, loop)
        for total, larger in zip(
            chain.from_iterable(sums), chain.from_iterable(grown), strict=True
        ):
            total.add_incoming(larger, loop)
        builder.cbranch(builder.icmp_signed("<", following, steps), loop, after)
        builder.position_at_end(after)
        factor = self._splat(builder, scale, _16F32)
        adds = builder.icmp_signed("!=", add, _constant(0))
        for row, grown_row in enumerate(grown):
            for panel, total in enumerate(grown_row):
                address = builder.add(out, builder.mul(out_stride, _constant(row)))
                address = builder.add(address, _constant(panel * LANES * 4))
                target = builder.inttoptr(address, _16F32.as_pointer())
                old = builder.load(target, align=4)
                old = builder.select(adds, old, zero)
                builder.store(self._fma(builder, total, factor, old), target, align=4)

    def _matrix(self, builder: Any, address: Any) -> Any:
        """A step of one panel: the vectors that the activations are multiplied with."""
        if self.rows <= 4:  # more rows wait for arithmetic, not for memory
            self._prefetch(builder, address)
        if self.kind == "f32":
            return (builder.load(builder.inttoptr(address, _16F32.as_pointer()), align=4),)
        pairs = builder.load(builder.inttoptr(address, _16I32.as_pointer()), align=4)
        return self._pairs(builder, pairs)

    def _values(self, builder: Any, address: Any) -> Any:
        """A step of one row of activations, in every lane."""
        if self.kind != "bf16":
            value = builder.load(builder.inttoptr(address, _F32.as_pointer()), align=4)
            return (self._splat(builder, value, _16F32),)
        pair = builder.load(builder.inttoptr(address, _I32.as_pointer()), align=4)
        return self._pairs(builder, self._splat(builder, pair, _16I32))

    def _pairs(self, builder: Any, pairs: Any) -> Any:
        """Pairs of bfloat16, whole if the processor multiplies them so, else as two float32."""
        if has_bf16_dot():
            return (builder.bitcast(pairs, _32BF16),)
        even = builder.bitcast(builder.shl(pairs, _SIXTEEN), _16F32)
        odd = builder.bitcast(builder.and_(pairs, _HIGH_HALVES), _16F32)
        return even, odd

    def _add_product(self, builder: Any, total: Any, values: Any, matrix: Any) -> Any:
        if self.kind == "bf16" and has_bf16_dot():
            kind = ir.FunctionType(_16F32, [_16F32, _32BF16, _32BF16])
            name = "llvm.x86.avx512bf16.dpbf16ps.512"
            dot = cgutils.get_or_insert_function(builder.module, kind, name)
            return builder.call(dot, [total, values[0], matrix[0]])
        for value, column in zip(values, matrix, strict=True):
            total = self._fma(builder, value, column, total)
        return total

    def _fma(self, builder: Any, a: Any, b: Any, c: Any) -> Any:
        kind = ir.FunctionType(_16F32, [_16F32] * 3)
        fma = cgutils.get_or_insert_function(builder.module, kind, "llvm.fma.v16f32")
        return builder.call(fma, [a, b, c])

    def _splat(self, builder: Any, value: Any, kind: ir.VectorType) -> Any:
        undefined = ir.Constant(kind, ir.Undefined)
        first = builder.insert_element(undefined, value, ir.Constant(_I32, 0))
        return builder.shuffle_vector(first, undefined, _FIRST_LANE)

    def _prefetch(self, builder: Any, address: Any) -> None:
        byte = ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [byte, _I32, _I32, _I32])
        prefetch = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        ahead = builder.inttoptr(builder.add(address, _constant(_PREFETCH_BYTES)), byte)
        read, keep, data = (ir.Constant(_I32, value) for value in (0, 3, 1))
        builder.call(prefetch, [ahead, read, keep, data])


def tile(kind: str, rows: int, panels: int) -> Callable[..., Any]:
    """An intrinsic: `out = x @ w * scale (+ out)` for a few rows and panels of 16 columns.

    `kind` says what a step multiplies: "bf16" two bfloat16 of a row with two of each column,
    "f32" one float32 each. Operands are addresses and strides in bytes:
    (x, row stride, w, panel stride, step stride, steps ≥ 1, out, row stride, scale, add).
    Sums are float32. A row's result does not depend on how many rows there are.
    """
    writer = _TileWriter(kind, rows, panels)

    @intrinsic
    def run(
        typing_context,
        x,
        x_stride,
        w,
        panel_stride,
        step_stride,
        steps,
        out,
        out_stride,
        scale,
        add,
    ):
        def generate(context, builder, signature, arguments):
            writer.write(builder, arguments)
            return context.get_dummy_value()

        numbers = [types.int64] * 8
        return types.void(*numbers, types.float32, types.int64), generate

    return run


def tiled(kind: str) -> Callable[..., Any]:
    """A compiled function like a tile of `kind`, for any number of rows and panels.

    Operands as a tile's, then rows and panels.
    """
    of = {(rows, panels): tile(kind, rows, panels) for rows in (1, 2, 4, 6) for panels in (1, 2, 4)}

    def rows_of(panels: int) -> Callable[..., Any]:
        one, two, four, six = (of[rows, panels] for rows in (1, 2, 4, 6))

        @njit
        def run(x, xs, w, ps, ss, steps, out, os, scale, add, rows):
            row = 0
            while rows - row >= 6:
                six(x + row * xs, xs, w, ps, ss, steps, out + row * os, os, scale, add)
                row += 6
            while rows - row >= 4:
                four(x + row * xs, xs, w, ps, ss, steps, out + row * os, os, scale, add)
                row += 4
            while rows - row >= 2:
                two(x + row * xs, xs, w, ps, ss, steps, out + row * os, os, scale, add)
                row += 2
            if row < rows:
                one(x + row * xs, xs, w, ps, ss, steps, out + row * os, os, scale, add)

        return run

    of_one, of_two, of_four = rows_of(1), rows_of(2), rows_of(4)

    @njit
    def run(x, xs, w, ps, ss, steps, out, os, scale, add, rows, panels):
        panel = 0
        while panels - panel >= 4:
            of_four(x, xs, w + panel * ps, ps, ss, steps, out + panel * 64, os, scale, add, rows)
            panel += 4
        while panels - panel >= 2:
            of_two(x, xs, w + panel * ps, ps, ss, steps, out + panel * 64, os, scale, add, rows)
            panel += 2
        if panel < panels:
            of_one(x, xs, w + panel * ps, ps, ss, steps, out + panel * 64, os, scale, add, rows)

    return run


bf16_tiles = tiled("bf16")
float32_tiles = tiled("f32")


@njit
def multiply(kind, x, xs, w, ps, ss, steps, out, os, scale, add, rows, panels):
    """A tile for operands of a `Kind`, for any number of rows and panels.

    The kind is an operand because numba keeps no machine code of functions made in functions.
    """
    if kind == 1:
        bf16_tiles(x, xs, w, ps, ss, steps, out, os, scale, add, rows, panels)
    else:
        float32_tiles(x, xs, w, ps, ss, steps, out, os, scale, add, rows, panels)
