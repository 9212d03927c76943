"""Pass over some columns of a delta rule's state: the inner loop of `delta_rule`.

A pass goes along the keys with up to 128 columns of the state side by side, as LLVM vectors of 16;
the sums of every column stay in registers. A column comes out the same whatever goes with it.
"""

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numba import njit, types
from numba.extending import intrinsic

from service.torch_host.compiled.codegen.debug_mode import MEMORY, in_python
from service.torch_host.compiled.codegen.lanes import (
    LANES,
    ZERO,
    fma,
    load,
    long,
    loop,
    plus,
    splat,
    spread,
    store,
)

#: Columns that fit into one call.
COLUMNS: Final = 128


def _write_pass(builder: Any, operands: Any, panels: int, *, updates: bool, asks: bool) -> None:
    """The loop over the keys, then the sums' way into memory; operands as those of `passes`."""
    state, stride, keys, decay, k, delta, next_k, next_q, sums = operands
    factor = splat(builder, decay)
    places = [long(panel * LANES * 4) for panel in range(panels)]
    deltas = [load(builder, builder.add(delta, place)) for place in places if updates]
    asked = [next_k, next_q] if asks else []

    def step(key: Any, totals: Any) -> Any:
        row, at = plus(builder, state, stride, key), builder.mul(key, long(4))
        rows = [load(builder, builder.add(row, place)) for place in places]
        if updates:
            written = spread(builder, builder.add(k, at))
            for panel, place in enumerate(places):
                kept = builder.fmul(factor, rows[panel])
                rows[panel] = fma(builder, written, deltas[panel], kept)
                store(builder, rows[panel], builder.add(row, place))
        values = [spread(builder, builder.add(vector, at)) for vector in asked]
        return [
            fma(builder, values[index // panels], rows[index % panels], total)
            for index, total in enumerate(totals)
        ]

    totals = loop(builder, keys, [ZERO] * (panels * len(asked)), step)
    for index, total in enumerate(totals):
        at = index // panels * COLUMNS * 4 + index % panels * LANES * 4
        store(builder, total, builder.add(sums, long(at)))


def _pass(panels: int, *, updates: bool, asks: bool) -> Callable[..., Any]:
    """An intrinsic for a fixed number of panels; operands as of `passes`, without `panels`."""

    def interpreted(state, stride, keys, decay, k, delta, next_k, next_q, sums):
        columns = panels * LANES
        totals = np.zeros((2, columns), dtype=np.float32)
        for key in range(keys):
            row = MEMORY.array(state + key * stride, np.float32, columns)
            if updates:
                written = MEMORY.array(k + 4 * key, np.float32, 1)
                row[:] = decay * row + written * MEMORY.array(delta, np.float32, columns)
            if asks:
                for index, vector in enumerate((next_k, next_q)):
                    totals[index] += MEMORY.array(vector + 4 * key, np.float32, 1) * row
        for index, total in enumerate(totals if asks else ()):
            MEMORY.array(sums + index * COLUMNS * 4, np.float32, columns)[:] = total

    @in_python(interpreted)
    @intrinsic
    def run(typing_context, state, stride, keys, decay, k, delta, next_k, next_q, sums):
        def generate(context, builder, signature, arguments):
            _write_pass(builder, arguments, panels, updates=updates, asks=asks)
            return context.get_dummy_value()

        addresses = [types.int64] * 5
        operands = (types.int64, types.int64, types.int64, types.float32, *addresses)
        return types.void(*operands), generate

    return run


def passes(*, updates: bool, asks: bool) -> Callable[..., Any]:
    """A compiled function: `S ← decay S + k δᵀ` if it updates, then `Sᵀ next_k`, `Sᵀ next_q`.

    Operands: the address of S's first row, the bytes from one row to the next, keys ≥ 1 (its rows),
    panels ≤ 8 (its columns in sixteens), decay, and the addresses of k (keys), δ (columns),
    next_k and next_q (keys) and of the sums, (2, 128). Everything is float32; what a pass does not
    do leaves its operands unread.
    """
    of_one, of_two, of_four, of_eight = (
        _pass(panels, updates=updates, asks=asks) for panels in (1, 2, 4, 8)
    )

    @njit
    def run(state, stride, keys, panels, decay, k, delta, next_k, next_q, sums):
        panel = 0
        while panel < panels:
            rest = panels - panel
            s, d, out = state + panel * 64, delta + panel * 64, sums + panel * 64
            if rest >= 8:
                of_eight(s, stride, keys, decay, k, d, next_k, next_q, out)
                panel += 8
            elif rest >= 4:
                of_four(s, stride, keys, decay, k, d, next_k, next_q, out)
                panel += 4
            elif rest >= 2:
                of_two(s, stride, keys, decay, k, d, next_k, next_q, out)
                panel += 2
            else:
                of_one(s, stride, keys, decay, k, d, next_k, next_q, out)
                panel += 1

    return run


ask = passes(updates=False, asks=True)
update_and_ask = passes(updates=True, asks=True)
update = passes(updates=True, asks=False)
