"""Writers of a tile's LLVM code: sums in registers over the steps of its columns.

A step is 64 bytes of each column panel: 32 bits per lane; the tile's kind defines their content.
"""

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Final

import numpy as np
from llvmlite import ir
from numba.core import cgutils

from service.torch_host.compiled.codegen.cpu_features import has_bf16_dot
from service.torch_host.compiled.codegen.debug_mode import MEMORY, Array
from service.torch_host.compiled.codegen.lanes import (
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

#: How far ahead a tile fetches its matrix, which it reads as one stream.
_PREFETCH_BYTES: Final = 4096


class _BFloat(ir.Type):  # type: ignore[misc]
    """LLVM's bfloat, which llvmlite does not name."""

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _BFloat)

    def __hash__(self) -> int:
        return hash(_BFloat)


_32BF16 = ir.VectorType(_BFloat(), 2 * LANES)


class Tile(ABC):
    """Writes the code of a tile with `rows` by `panels` sums of 16 lanes."""

    scaled: ClassVar[bool] = False
    """True if each column has a scale."""

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

    def interpret(
        self,
        x: Any,
        x_stride: Any,
        w: Any,
        panel_stride: Any,
        step_stride: Any,
        steps: Any,
        scales: Any,
        out: Any,
        out_stride: Any,
        scale: Any,
        add: Any,
    ) -> None:
        """Compute as the written code does, in NumPy: for debug mode."""
        for row in range(self.rows):
            for panel in range(self.panels):
                at = w + panel * panel_stride
                panel_steps = np.stack(
                    [MEMORY.array(at + i * step_stride, np.uint8, 4 * LANES) for i in range(steps)]
                )
                sums = self._interpreted(x + row * x_stride, panel_steps)
                if scales and self.scaled:
                    sums = sums * MEMORY.array(scales + panel * LANES * 4, np.float32, LANES)
                target = MEMORY.array(out + row * out_stride + panel * LANES * 4, np.float32, LANES)
                target[:] = sums * scale + (target if add else 0)

    @abstractmethod
    def _interpreted(self, row: Any, steps: Array) -> Array:
        """Sums of a row with a panel, whose steps are (steps, 64) bytes: 16 lanes, in NumPy."""

    @abstractmethod
    def _sums(self, builder: Any, rows: Any, panels: Any, step_stride: Any, steps: Any) -> Any:
        """Loop over the steps; vectors of float32 sums by row and panel."""

    def _factors(self, builder: Any, scales: Any, scale: Any) -> Any:  # noqa: ARG002
        """Factors of each panel's sums."""
        return [scale] * self.panels

    def _by_row(self, sums: Any) -> Any:
        return [sums[row * self.panels :][: self.panels] for row in range(self.rows)]

    def _here(self, builder: Any, panels: Any, step_stride: Any, step: Any) -> list[Any]:
        """Addresses of the panels at a step; prefetched for few rows, which wait for memory."""
        addresses = [plus(builder, panel, step_stride, step) for panel in panels]
        if self.rows <= 4:
            for address in addresses:
                prefetch(builder, builder.add(address, long(_PREFETCH_BYTES)))
        return addresses


class Float32Tile(Tile):
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

    def _interpreted(self, row: Any, steps: Array) -> Array:
        return MEMORY.array(row, np.float32, len(steps)) @ steps.view(np.float32)

    def _column(self, builder: Any, address: Any) -> Any:
        return load(builder, address)

    def _values(self, builder: Any, address: Any) -> Any:
        return spread(builder, address)

    def _add(self, builder: Any, total: Any, values: Any, column: Any) -> Any:
        return fma(builder, values, column, total)


class BFloat16Tile(Float32Tile):
    """A step is two bfloat16 of each row times two of each column, summed in float32."""

    def _interpreted(self, row: Any, steps: Array) -> Array:
        halves = MEMORY.array(row, np.uint16, 2 * len(steps)).reshape(len(steps), 1, 2)
        pairs = steps.view(np.uint16).reshape(len(steps), LANES, 2)
        values, columns = (
            (part.astype(np.uint32) << 16).view(np.float32) for part in (halves, pairs)
        )
        sums: Array = (values * columns).sum((0, 2))
        return sums

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
        """Pairs if the processor multiplies them, else even and odd elements as float32."""
        if has_bf16_dot():
            return builder.bitcast(pairs, _32BF16)
        even = builder.shl(pairs, words(16))
        odd = builder.and_(pairs, words(0xFFFF0000))
        return builder.bitcast(even, FLOATS), builder.bitcast(odd, FLOATS)
