"""The tile: the inner loop of every matrix product.

A tile is a few rows of activations times up to 64 columns of a matrix whose columns lie 16 by 16
side by side, all sums in registers. numba has no vector types; LLVM, which numba drives, has. Tiles
are written as LLVM vectors of 16, which LLVM splits where the processor's are shorter.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Final

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from service.engines.torch.compiled.machine import has_bf16_dot, has_int8_dot

#: Columns that lie side by side in a packed matrix.
LANES: Final = 16

#: Inputs of an int8 matrix whose activations share one scale.
GROUP: Final = 64

#: How far ahead a tile fetches its matrix, which it reads as one stream.
_PREFETCH_BYTES: Final = 4096

#: Of an int8 matrix each step holds four inputs.
_GROUP_STEPS: Final = GROUP // 4

_I8, _I32, _I64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)
_F32 = ir.FloatType()
_16I32 = ir.VectorType(_I32, LANES)
_16F32 = ir.VectorType(_F32, LANES)
_64I8 = ir.VectorType(_I8, 4 * LANES)
_ZERO: Final = ir.Constant(_16F32, [0.0] * LANES)


class _BFloat(ir.Type):  # type: ignore[misc]
    """LLVM's bfloat, which llvmlite does not name."""

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _BFloat)

    def __hash__(self) -> int:
        return hash(_BFloat)


_32BF16 = ir.VectorType(_BFloat(), 2 * LANES)


def _constant(value: int) -> ir.Constant:
    return ir.Constant(_I64, value)


def _words(value: int) -> ir.Constant:
    return ir.Constant(_16I32, [value] * LANES)


def _splat(builder: Any, value: Any, kind: ir.VectorType) -> Any:
    undefined = ir.Constant(kind, ir.Undefined)
    first = builder.insert_element(undefined, value, ir.Constant(_I32, 0))
    return builder.shuffle_vector(first, undefined, _words(0))


def _fma(builder: Any, a: Any, b: Any, c: Any) -> Any:
    kind = ir.FunctionType(_16F32, [_16F32] * 3)
    fma = cgutils.get_or_insert_function(builder.module, kind, "llvm.fma.v16f32")
    return builder.call(fma, [a, b, c])


def _load(builder: Any, address: Any, kind: ir.Type) -> Any:
    return builder.load(builder.inttoptr(address, kind.as_pointer()), align=4)


def _prefetch(builder: Any, address: Any) -> None:
    byte = _I8.as_pointer()
    kind = ir.FunctionType(ir.VoidType(), [byte, _I32, _I32, _I32])
    prefetch = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    ahead = builder.inttoptr(builder.add(address, _constant(_PREFETCH_BYTES)), byte)
    read, keep, data = (ir.Constant(_I32, value) for value in (0, 3, 1))
    builder.call(prefetch, [ahead, read, keep, data])


class _Tile(ABC):
    """Writes the code of a tile with `rows` by `panels` sums of 16 lanes."""

    def __init__(self, rows: int, panels: int) -> None:
        self.rows = rows
        self.panels = panels

    def write(self, builder: Any, operands: Any) -> None:
        """The sums, then their way into memory; the builder goes on after it."""
        x, x_stride, w, panel_stride, step_stride, steps, scales, out, out_stride, scale, add = (
            operands
        )
        rows = [self._plus(builder, x, x_stride, row) for row in range(self.rows)]
        panels = [self._plus(builder, w, panel_stride, panel) for panel in range(self.panels)]
        sums = self._sums(builder, rows, panels, step_stride, steps)
        factors = self._factors(builder, scales, _splat(builder, scale, _16F32))
        adds = builder.icmp_signed("!=", add, _constant(0))
        for row in range(self.rows):
            begin = self._plus(builder, out, out_stride, row)
            for panel in range(self.panels):
                address = builder.add(begin, _constant(panel * LANES * 4))
                old = builder.select(adds, _load(builder, address, _16F32), _ZERO)
                result = _fma(builder, sums[row][panel], factors[panel], old)
                builder.store(result, builder.inttoptr(address, _16F32.as_pointer()), align=4)

    @abstractmethod
    def _sums(self, builder: Any, rows: Any, panels: Any, step_stride: Any, steps: Any) -> Any:
        """Loop over the steps; vectors of float32 sums by row and panel."""

    def _factors(self, builder: Any, scales: Any, scale: Any) -> Any:  # noqa: ARG002
        """What each panel's sums are multiplied with."""
        return [scale] * self.panels

    def _loop(
        self, builder: Any, count: Any, begin: Any, body: Callable[[Any, Any], Any]
    ) -> list[Any]:
        """`carried = body(index, carried)` for each index below `count`, at least once."""
        before = builder.block
        loop = builder.append_basic_block("tile")
        after = builder.append_basic_block("tile.end")
        builder.branch(loop)
        builder.position_at_end(loop)
        index = builder.phi(_I64)
        index.add_incoming(_constant(0), before)
        carried = [builder.phi(value.type) for value in begin]
        for value, first in zip(carried, begin, strict=True):
            value.add_incoming(first, before)
        results = body(index, carried)
        following = builder.add(index, _constant(1))
        index.add_incoming(following, builder.block)
        for value, result in zip(carried, results, strict=True):
            value.add_incoming(result, builder.block)
        builder.cbranch(builder.icmp_signed("<", following, count), loop, after)
        builder.position_at_end(after)
        return list(results)

    def _by_row(self, sums: Any) -> Any:
        return [sums[row * self.panels :][: self.panels] for row in range(self.rows)]

    def _plus(self, builder: Any, address: Any, stride: Any, times: Any) -> Any:
        if isinstance(times, int):
            times = _constant(times)
        return builder.add(address, builder.mul(stride, times))

    def _here(self, builder: Any, panels: Any, step_stride: Any, step: Any) -> list[Any]:
        """Where the panels are at a step, fetched ahead if memory is what there is to wait for."""
        addresses = [self._plus(builder, panel, step_stride, step) for panel in panels]
        if self.rows <= 4:
            for address in addresses:
                _prefetch(builder, address)
        return addresses


class _Float32Tile(_Tile):
    """A step is one float32 of each row times one of each column."""

    def _sums(self, builder: Any, rows: Any, panels: Any, step_stride: Any, steps: Any) -> Any:
        def step(index: Any, sums: Any) -> Any:
            columns = [
                self._column(builder, address)
                for address in self._here(builder, panels, step_stride, index)
            ]
            results = []
            for row, begin in enumerate(rows):
                values = self._values(builder, builder.add(begin, builder.mul(index, _constant(4))))
                results += [
                    self._add(builder, sums[row * self.panels + panel], values, column)
                    for panel, column in enumerate(columns)
                ]
            return results

        zeros = [_ZERO] * (self.rows * self.panels)
        return self._by_row(self._loop(builder, steps, zeros, step))

    def _column(self, builder: Any, address: Any) -> Any:
        return _load(builder, address, _16F32)

    def _values(self, builder: Any, address: Any) -> Any:
        return _splat(builder, _load(builder, address, _F32), _16F32)

    def _add(self, builder: Any, total: Any, values: Any, column: Any) -> Any:
        return _fma(builder, values, column, total)


class _BFloat16Tile(_Float32Tile):
    """A step is two bfloat16 of each row times two of each column, summed in float32."""

    def _column(self, builder: Any, address: Any) -> Any:
        return self._pairs(builder, _load(builder, address, _16I32))

    def _values(self, builder: Any, address: Any) -> Any:
        return self._pairs(builder, _splat(builder, _load(builder, address, _I32), _16I32))

    def _add(self, builder: Any, total: Any, values: Any, column: Any) -> Any:
        if has_bf16_dot():
            kind = ir.FunctionType(_16F32, [_16F32, _32BF16, _32BF16])
            name = "llvm.x86.avx512bf16.dpbf16ps.512"
            dot = cgutils.get_or_insert_function(builder.module, kind, name)
            return builder.call(dot, [total, values, column])
        for value, of_column in zip(values, column, strict=True):
            total = _fma(builder, value, of_column, total)
        return total

    def _pairs(self, builder: Any, pairs: Any) -> Any:
        """Whole if the processor multiplies pairs, else the even and the odd as float32."""
        if has_bf16_dot():
            return builder.bitcast(pairs, _32BF16)
        even = builder.shl(pairs, _words(16))
        odd = builder.and_(pairs, _words(0xFFFF0000))
        return builder.bitcast(even, _16F32), builder.bitcast(odd, _16F32)


class _Int8Tile(_Tile):
    """A step is four int8 of each row times four of each column, summed as whole numbers.

    A row is its int8 values, then for each group of 64 a float32 scale, then for each group the
    int32 that makes up for the columns being stored with 128 added. Columns have a scale each.
    """

    def _sums(self, builder: Any, rows: Any, panels: Any, step_stride: Any, steps: Any) -> Any:
        groups = builder.sdiv(steps, _constant(_GROUP_STEPS))
        values_bytes = builder.mul(steps, _constant(4))
        scales = [builder.add(row, values_bytes) for row in rows]
        groups_bytes = builder.mul(groups, _constant(4))

        def group(index: Any, sums: Any) -> Any:
            first = builder.mul(index, _constant(_GROUP_STEPS))
            at = builder.mul(index, _constant(4))
            begin: list[Any] = []
            for scale in scales:
                correction = builder.add(builder.add(scale, groups_bytes), at)
                splat = _splat(builder, _load(builder, correction, _I32), _16I32)
                begin += [splat] * self.panels

            def step(inner: Any, whole: Any) -> Any:
                index = builder.add(first, inner)
                columns = [
                    _load(builder, address, _16I32)
                    for address in self._here(builder, panels, step_stride, index)
                ]
                results = []
                for row, start in enumerate(rows):
                    address = builder.add(start, builder.mul(index, _constant(4)))
                    values = _splat(builder, _load(builder, address, _I32), _16I32)
                    results += [
                        self._dot(builder, whole[row * self.panels + panel], column, values)
                        for panel, column in enumerate(columns)
                    ]
                return results

            whole = self._loop(builder, _constant(_GROUP_STEPS), begin, step)
            results = []
            for row, scale in enumerate(scales):
                factor = _splat(builder, _load(builder, builder.add(scale, at), _F32), _16F32)
                for panel in range(self.panels):
                    at_panel = row * self.panels + panel
                    number = builder.sitofp(whole[at_panel], _16F32)
                    results.append(_fma(builder, number, factor, sums[at_panel]))
            return results

        zeros = [_ZERO] * (self.rows * self.panels)
        return self._by_row(self._loop(builder, groups, zeros, group))

    def _factors(self, builder: Any, scales: Any, scale: Any) -> Any:
        return [
            builder.fmul(
                _load(builder, builder.add(scales, _constant(panel * LANES * 4)), _16F32), scale
            )
            for panel in range(self.panels)
        ]

    def _dot(self, builder: Any, total: Any, column: Any, values: Any) -> Any:
        """Add four products of unsigned by signed 8-bit numbers to each lane."""
        if has_int8_dot():
            kind = ir.FunctionType(_16I32, [_16I32, _64I8, _64I8])
            name = "llvm.x86.avx512.vpdpbusd.512"
            dot = cgutils.get_or_insert_function(builder.module, kind, name)
            fours = builder.bitcast(column, _64I8), builder.bitcast(values, _64I8)
            return builder.call(dot, [total, *fours])
        for place in range(4):
            unsigned = builder.and_(builder.lshr(column, _words(8 * place)), _words(0xFF))
            signed = builder.ashr(builder.shl(values, _words(24 - 8 * place)), _words(24))
            total = builder.add(total, builder.mul(unsigned, signed))
        return total


def _tile(writer: _Tile) -> Callable[..., Any]:
    """An intrinsic: `out = x @ w * scale (+ out)` for a few rows and panels of 16 columns.

    Operands are addresses and strides in bytes: (x, row stride, w, panel stride, step stride,
    steps ≥ 1, scales of the columns or 0, out, row stride, scale, add). A row's result does not
    depend on how many rows there are.
    """

    @intrinsic
    def run(typing_context, x, xs, w, ps, ss, steps, scales, out, os, scale, add):
        def generate(context, builder, signature, operands):
            writer.write(builder, operands)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 9, types.float32, types.int64), generate

    return run


def _tiled(kind: type[_Tile]) -> Callable[..., Any]:
    """A compiled function like a tile, for any number of rows and panels, its last operands."""
    of = {
        (rows, panels): _tile(kind(rows, panels)) for rows in (1, 2, 4, 6) for panels in (1, 2, 4)
    }

    def rows_of(panels: int) -> Callable[..., Any]:
        one, two, four, six = (of[rows, panels] for rows in (1, 2, 4, 6))

        @njit
        def run(x, xs, w, ps, ss, steps, scales, out, os, scale, add, rows):
            row = 0
            while rows - row >= 6:
                six(x + row * xs, xs, w, ps, ss, steps, scales, out + row * os, os, scale, add)
                row += 6
            while rows - row >= 4:
                four(x + row * xs, xs, w, ps, ss, steps, scales, out + row * os, os, scale, add)
                row += 4
            while rows - row >= 2:
                two(x + row * xs, xs, w, ps, ss, steps, scales, out + row * os, os, scale, add)
                row += 2
            if row < rows:
                one(x + row * xs, xs, w, ps, ss, steps, scales, out + row * os, os, scale, add)

        return run

    of_one, of_two, of_four = rows_of(1), rows_of(2), rows_of(4)

    @njit
    def run(x, xs, w, ps, ss, steps, scales, out, os, scale, add, rows, panels):
        panel = 0
        while panels - panel >= 4:
            at, own, to = w + panel * ps, scales + panel * 64, out + panel * 64
            of_four(x, xs, at, ps, ss, steps, own, to, os, scale, add, rows)
            panel += 4
        while panels - panel >= 2:
            at, own, to = w + panel * ps, scales + panel * 64, out + panel * 64
            of_two(x, xs, at, ps, ss, steps, own, to, os, scale, add, rows)
            panel += 2
        if panel < panels:
            at, own, to = w + panel * ps, scales + panel * 64, out + panel * 64
            of_one(x, xs, at, ps, ss, steps, own, to, os, scale, add, rows)

    return run


_float32_tiles = _tiled(_Float32Tile)
_bfloat16_tiles = _tiled(_BFloat16Tile)
_int8_tiles = _tiled(_Int8Tile)


@njit
def multiply(kind, x, xs, w, ps, ss, steps, scales, out, os, scale, add, rows, panels):
    """A tile for operands of a `Kind`, for any number of rows and panels.

    The kind is an operand because numba keeps no machine code of functions made in functions.
    """
    if kind == 2:
        _int8_tiles(x, xs, w, ps, ss, steps, scales, out, os, scale, add, rows, panels)
    elif kind == 1:
        _bfloat16_tiles(x, xs, w, ps, ss, steps, scales, out, os, scale, add, rows, panels)
    else:
        _float32_tiles(x, xs, w, ps, ss, steps, scales, out, os, scale, add, rows, panels)
