"""The tile: the inner loop of every matrix product.

A tile is a few rows of activations times up to 64 columns of a matrix whose columns lie 16 by 16
side by side, all sums in registers.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Final

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from service.engines.torch.compiled.lanes import (
    FLOATS,
    I32,
    LANES,
    WORDS,
    ZERO,
    fma,
    load,
    long,
    loop,
    plus,
    prefetch,
    splat,
    spread,
    store,
    words,
)
from service.engines.torch.compiled.machine import has_bf16_dot, has_int8_dot

#: Inputs of an int8 matrix whose activations share one scale.
GROUP: Final = 64

#: How far ahead a tile fetches its matrix, which it reads as one stream.
_PREFETCH_BYTES: Final = 4096

#: Of an int8 matrix each step holds four inputs.
_GROUP_STEPS: Final = GROUP // 4

_64I8 = ir.VectorType(ir.IntType(8), 4 * LANES)


class _BFloat(ir.Type):  # type: ignore[misc]
    """LLVM's bfloat, which llvmlite does not name."""

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _BFloat)

    def __hash__(self) -> int:
        return hash(_BFloat)


_32BF16 = ir.VectorType(_BFloat(), 2 * LANES)


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
        rows = [plus(builder, x, x_stride, row) for row in range(self.rows)]
        panels = [plus(builder, w, panel_stride, panel) for panel in range(self.panels)]
        sums = self._sums(builder, rows, panels, step_stride, steps)
        factors = self._factors(builder, scales, splat(builder, scale))
        adds = builder.icmp_signed("!=", add, long(0))
        for row in range(self.rows):
            begin = plus(builder, out, out_stride, row)
            for panel in range(self.panels):
                address = builder.add(begin, long(panel * LANES * 4))
                old = builder.select(adds, load(builder, address), ZERO)
                result = fma(builder, sums[row][panel], factors[panel], old)
                store(builder, result, address)

    @abstractmethod
    def _sums(self, builder: Any, rows: Any, panels: Any, step_stride: Any, steps: Any) -> Any:
        """Loop over the steps; vectors of float32 sums by row and panel."""

    def _factors(self, builder: Any, scales: Any, scale: Any) -> Any:  # noqa: ARG002
        """What each panel's sums are multiplied with."""
        return [scale] * self.panels

    def _by_row(self, sums: Any) -> Any:
        return [sums[row * self.panels :][: self.panels] for row in range(self.rows)]

    def _here(self, builder: Any, panels: Any, step_stride: Any, step: Any) -> list[Any]:
        """Where the panels are at a step, fetched ahead if memory is what there is to wait for."""
        addresses = [plus(builder, panel, step_stride, step) for panel in panels]
        if self.rows <= 4:
            for address in addresses:
                prefetch(builder, builder.add(address, long(_PREFETCH_BYTES)))
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
                values = self._values(builder, builder.add(begin, builder.mul(index, long(4))))
                results += [
                    self._add(builder, sums[row * self.panels + panel], values, column)
                    for panel, column in enumerate(columns)
                ]
            return results

        zeros = [ZERO] * (self.rows * self.panels)
        return self._by_row(loop(builder, steps, zeros, step))

    def _column(self, builder: Any, address: Any) -> Any:
        return load(builder, address)

    def _values(self, builder: Any, address: Any) -> Any:
        return spread(builder, address)

    def _add(self, builder: Any, total: Any, values: Any, column: Any) -> Any:
        return fma(builder, values, column, total)


class _BFloat16Tile(_Float32Tile):
    """A step is two bfloat16 of each row times two of each column, summed in float32."""

    def _column(self, builder: Any, address: Any) -> Any:
        return self._pairs(builder, load(builder, address, WORDS))

    def _values(self, builder: Any, address: Any) -> Any:
        return self._pairs(builder, spread(builder, address, I32))

    def _add(self, builder: Any, total: Any, values: Any, column: Any) -> Any:
        if has_bf16_dot():
            kind = ir.FunctionType(FLOATS, [FLOATS, _32BF16, _32BF16])
            name = "llvm.x86.avx512bf16.dpbf16ps.512"
            dot = cgutils.get_or_insert_function(builder.module, kind, name)
            return builder.call(dot, [total, values, column])
        for value, of_column in zip(values, column, strict=True):
            total = fma(builder, value, of_column, total)
        return total

    def _pairs(self, builder: Any, pairs: Any) -> Any:
        """Whole if the processor multiplies pairs, else the even and the odd as float32."""
        if has_bf16_dot():
            return builder.bitcast(pairs, _32BF16)
        even = builder.shl(pairs, words(16))
        odd = builder.and_(pairs, words(0xFFFF0000))
        return builder.bitcast(even, FLOATS), builder.bitcast(odd, FLOATS)


class _Int8Tile(_Tile):
    """A step is four int8 of each row times four of each column, summed as whole numbers.

    A row is its int8 values, then for each group of 64 a float32 scale, then for each group the
    int32 that makes up for the columns being stored with 128 added. Columns have a scale each.
    """

    def _sums(self, builder: Any, rows: Any, panels: Any, step_stride: Any, steps: Any) -> Any:
        groups = builder.sdiv(steps, long(_GROUP_STEPS))
        values_bytes = builder.mul(steps, long(4))
        scales = [builder.add(row, values_bytes) for row in rows]
        groups_bytes = builder.mul(groups, long(4))

        def group(index: Any, sums: Any) -> Any:
            first = builder.mul(index, long(_GROUP_STEPS))
            at = builder.mul(index, long(4))
            begin: list[Any] = []
            for scale in scales:
                correction = builder.add(builder.add(scale, groups_bytes), at)
                splat = spread(builder, correction, I32)
                begin += [splat] * self.panels

            def step(inner: Any, whole: Any) -> Any:
                index = builder.add(first, inner)
                columns = [
                    load(builder, address, WORDS)
                    for address in self._here(builder, panels, step_stride, index)
                ]
                results = []
                for row, start in enumerate(rows):
                    address = builder.add(start, builder.mul(index, long(4)))
                    values = spread(builder, address, I32)
                    results += [
                        self._dot(builder, whole[row * self.panels + panel], column, values)
                        for panel, column in enumerate(columns)
                    ]
                return results

            whole = loop(builder, long(_GROUP_STEPS), begin, step)
            results = []
            for row, scale in enumerate(scales):
                factor = spread(builder, builder.add(scale, at))
                for panel in range(self.panels):
                    at_panel = row * self.panels + panel
                    number = builder.sitofp(whole[at_panel], FLOATS)
                    results.append(fma(builder, number, factor, sums[at_panel]))
            return results

        zeros = [ZERO] * (self.rows * self.panels)
        return self._by_row(loop(builder, groups, zeros, group))

    def _factors(self, builder: Any, scales: Any, scale: Any) -> Any:
        return [
            builder.fmul(load(builder, builder.add(scales, long(panel * LANES * 4))), scale)
            for panel in range(self.panels)
        ]

    def _dot(self, builder: Any, total: Any, column: Any, values: Any) -> Any:
        """Add four products of unsigned by signed 8-bit numbers to each lane."""
        if has_int8_dot():
            kind = ir.FunctionType(WORDS, [WORDS, _64I8, _64I8])
            name = "llvm.x86.avx512.vpdpbusd.512"
            dot = cgutils.get_or_insert_function(builder.module, kind, name)
            fours = builder.bitcast(column, _64I8), builder.bitcast(values, _64I8)
            return builder.call(dot, [total, *fours])
        for place in range(4):
            unsigned = builder.and_(builder.lshr(column, words(8 * place)), words(0xFF))
            signed = builder.ashr(builder.shl(values, words(24 - 8 * place)), words(24))
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
