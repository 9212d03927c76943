"""Tiles of matrices in 8 and 4 bits, with integer sums within a group of inputs."""

from typing import Any, Final

import numpy as np
from llvmlite import ir
from numba.core import cgutils

from service.torch_host.compiled.codegen.cpu_features import LLVM_VERSION, has_int8_dot
from service.torch_host.compiled.codegen.debug_mode import MEMORY, Array
from service.torch_host.compiled.codegen.lanes import (
    FLOATS,
    I32,
    LANES,
    WORDS,
    ZERO,
    fma,
    halves,
    load,
    long,
    loop,
    plus,
    spread,
    words,
)
from service.torch_host.compiled.codegen.tile_writers import Tile

#: Inputs of an int8 matrix whose activations share one scale.
GROUP: Final = 64

#: Inputs of a grouped matrix that share a scale and a minimum, and whose activations share one.
SMALL_GROUP: Final = 32

#: Of an int8 matrix each step holds four inputs.
_GROUP_STEPS: Final = GROUP // 4

#: What LLVM's intrinsic takes for fours of 8-bit numbers: words, and from LLVM 22 on bytes.
_FOURS: Final = ir.VectorType(ir.IntType(8), 4 * LANES) if LLVM_VERSION >= 22 else WORDS


class Int8Tile(Tile):
    """A step is four int8 of each row times four of each column, summed as whole numbers.

    A row is its int8 values, then for each group of 64 a float32 scale, then for each group the
    int32 that makes up for the columns being stored with 128 added. Columns have a scale each.
    """

    scaled = True

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
                        _dot(builder, whole[row * self.panels + panel], column, values)
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

    def _interpreted(self, row: Any, steps: Array) -> Array:
        groups = len(steps) // _GROUP_STEPS
        values = MEMORY.array(row, np.int8, groups * GROUP).reshape(groups, _GROUP_STEPS, 1, 4)
        scales = MEMORY.array(row + groups * GROUP, np.float32, groups)
        corrections = MEMORY.array(row + groups * (GROUP + 4), np.int32, groups)
        columns = steps.reshape(groups, _GROUP_STEPS, LANES, 4).astype(np.int32)
        whole = (values * columns).sum((1, 3)) + corrections[:, None]
        return scales @ whole.astype(np.float32)

    def _factors(self, builder: Any, scales: Any, scale: Any) -> Any:
        return [
            builder.fmul(load(builder, builder.add(scales, long(panel * LANES * 4))), scale)
            for panel in range(self.panels)
        ]


class GroupedTile(Tile):
    """A matrix with a float16 scale and minimum for every 32 inputs of each output.

    A group is a step of 16 scales and 16 minima, then the steps of its codes, which are unsigned.
    Of 4 bits a step holds eight inputs, the first four of each lane in the low halves of its bytes.
    A row is its int8 values, then for each group a float32 scale, then for each group the sum of
    its values times that scale, in float32.
    """

    code_bits: int

    @property
    def _code_steps(self) -> int:
        return SMALL_GROUP * self.code_bits // 32

    def _interpreted(self, row: Any, steps: Array) -> Array:
        groups = len(steps) // (1 + self._code_steps)
        values = MEMORY.array(row, np.int8, groups * SMALL_GROUP).reshape(groups, -1)
        scales = MEMORY.array(row + groups * SMALL_GROUP, np.float32, groups)
        totals = MEMORY.array(row + groups * (SMALL_GROUP + 4), np.float32, groups)
        parts = steps.reshape(groups, 1 + self._code_steps, 4 * LANES)
        heads = np.ascontiguousarray(parts[:, 0]).view(np.float16).astype(np.float32)
        codes = parts[:, 1:].reshape(groups, -1, LANES, 4)
        if self.code_bits == 4:
            codes = np.stack([codes & 15, codes >> 4], axis=2)
            codes = codes.reshape(groups, -1, LANES, 4)
        by_input = codes.transpose(0, 1, 3, 2).reshape(groups, SMALL_GROUP, LANES)
        whole = np.einsum("gi,gil->gl", values.astype(np.int32), by_input.astype(np.int32))
        sums: Array = (scales[:, None] * heads[:, :LANES] * whole).sum(0)
        return sums + totals @ heads[:, LANES:]

    def _sums(self, builder: Any, rows: Any, panels: Any, step_stride: Any, steps: Any) -> Any:
        groups = builder.sdiv(steps, long(1 + self._code_steps))
        scales = [plus(builder, row, SMALL_GROUP, groups) for row in rows]
        groups_bytes = builder.mul(groups, long(4))

        def group(index: Any, sums: Any) -> Any:
            first = builder.mul(index, long(1 + self._code_steps))
            heads = self._here(builder, panels, step_stride, first)
            values = [plus(builder, row, SMALL_GROUP, index) for row in rows]
            whole = self._whole(builder, values, panels, step_stride, builder.add(first, long(1)))
            factors = [halves(builder, head) for head in heads]
            minima = [halves(builder, builder.add(head, long(2 * LANES))) for head in heads]
            at = builder.mul(index, long(4))
            results = []
            for row, begin in enumerate(scales):
                scale = spread(builder, builder.add(begin, at))
                total = spread(builder, builder.add(builder.add(begin, groups_bytes), at))
                for panel in range(self.panels):
                    at_panel = row * self.panels + panel
                    number = builder.sitofp(whole[at_panel], FLOATS)
                    factor = builder.fmul(factors[panel], scale)
                    partial = fma(builder, number, factor, sums[at_panel])
                    results.append(fma(builder, minima[panel], total, partial))
            return results

        zeros = [ZERO] * (self.rows * self.panels)
        return self._by_row(loop(builder, groups, zeros, group))

    def _whole(
        self, builder: Any, rows: Any, panels: Any, step_stride: Any, first: Any
    ) -> list[Any]:
        """Sums of a group's codes times values, as whole numbers."""
        parts = 8 // self.code_bits

        def step(index: Any, whole: Any) -> Any:
            columns = [
                self._codes(builder, load(builder, address, WORDS))
                for address in self._here(builder, panels, step_stride, builder.add(first, index))
            ]
            results = list(whole)
            for row, begin in enumerate(rows):
                for part in range(parts):
                    address = builder.add(plus(builder, begin, 4 * parts, index), long(4 * part))
                    values = spread(builder, address, I32)
                    for panel, column in enumerate(columns):
                        at = row * self.panels + panel
                        results[at] = _dot(builder, results[at], column[part], values)
            return results

        return loop(builder, long(self._code_steps), [words(0)] * (self.rows * self.panels), step)

    def _codes(self, builder: Any, stored: Any) -> list[Any]:
        """A step's codes as bytes: of 4 bits first the low halves, then the high ones."""
        if self.code_bits == 8:
            return [stored]
        low = words(0x0F0F0F0F)
        return [builder.and_(stored, low), builder.and_(builder.lshr(stored, words(4)), low)]


class Grouped4Tile(GroupedTile):
    """Codes of 4 bits."""

    code_bits = 4


class Grouped8Tile(GroupedTile):
    """Codes of 8 bits."""

    code_bits = 8


def _dot(builder: Any, total: Any, column: Any, values: Any) -> Any:
    """Add four products of unsigned by signed 8-bit numbers to each lane."""
    if has_int8_dot():
        kind = ir.FunctionType(WORDS, [WORDS, _FOURS, _FOURS])
        name = "llvm.x86.avx512.vpdpbusd.512"
        dot = cgutils.get_or_insert_function(builder.module, kind, name)
        fours = builder.bitcast(column, _FOURS), builder.bitcast(values, _FOURS)
        return builder.call(dot, [total, *fours])
    for place in range(4):
        unsigned = builder.and_(builder.lshr(column, words(8 * place)), words(0xFF))
        signed = builder.ashr(builder.shl(values, words(24 - 8 * place)), words(24))
        total = builder.add(total, builder.mul(unsigned, signed))
    return total
