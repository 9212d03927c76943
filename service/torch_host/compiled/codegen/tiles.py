"""The tile: the inner loop of every matrix product.

A tile is a few rows of activations times up to 64 columns of a matrix whose columns lie 16 by 16
side by side, all sums in registers.
"""

from collections.abc import Callable
from typing import Any

from numba import njit, types
from numba.extending import intrinsic

from service.torch_host.compiled.codegen.debug_mode import in_python
from service.torch_host.compiled.codegen.tile_writers import Tile


def _tile(writer: Tile) -> Callable[..., Any]:
    """An intrinsic: `out = x @ w * scale (+ out)` for a few rows and panels of 16 columns.

    Operands are addresses and strides in bytes: (x, row stride, w, panel stride, step stride,
    steps ≥ 1, scales of the columns or 0, out, row stride, scale, add). A row's result does not
    depend on how many rows there are.
    """

    @in_python(writer.interpret)
    @intrinsic
    def run(typing_context, x, xs, w, ps, ss, steps, scales, out, os, scale, add):
        def generate(context, builder, signature, operands):
            writer.write(builder, operands)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 9, types.float32, types.int64), generate

    return run


def tiled(kind: type[Tile]) -> Callable[..., Any]:
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
