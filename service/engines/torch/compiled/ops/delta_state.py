"""One pass over some columns of a delta rule's state: the inner loop of `delta_rule`.

A pass goes along the keys with up to 128 columns of the state side by side, as LLVM vectors of 16;
the sums of every column stay in registers. A column comes out the same whatever goes with it.
"""

from collections.abc import Callable
from typing import Any, Final

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from service.engines.torch.compiled.tiles import LANES

_I32, _I64, _F32 = ir.IntType(32), ir.IntType(64), ir.FloatType()
_16F32 = ir.VectorType(_F32, LANES)
_ZERO: Final = ir.Constant(_16F32, [0.0] * LANES)
#: Columns that fit into one call.
COLUMNS: Final = 128


class _PassWriter:
    """Writes a pass over `panels` times 16 columns."""

    def __init__(self, panels: int, *, updates: bool, asks: bool) -> None:
        self.panels = range(panels)
        self.updates = updates
        self.asks = asks

    def write(self, builder: Any, arguments: Any) -> None:
        """The loop, then the sums' way into memory; the builder goes on after it."""
        state, stride, keys, decay, k, delta, next_k, next_q, sums = arguments
        factor = self._spread(builder, decay)
        deltas = [self._load(builder, delta, panel) for panel in self.panels if self.updates]
        before = builder.block
        loop = builder.append_basic_block("pass")
        after = builder.append_basic_block("pass.end")
        builder.branch(loop)
        builder.position_at_end(loop)
        key = builder.phi(_I64)
        key.add_incoming(ir.Constant(_I64, 0), before)
        asked = [
            (vector, [builder.phi(_16F32) for _ in self.panels])
            for vector in (next_k, next_q)
            if self.asks
        ]
        row = builder.add(state, builder.mul(key, stride))
        rows = [self._load(builder, row, panel) for panel in self.panels]
        if self.updates:
            written = self._element(builder, k, key)
            for panel in self.panels:
                kept = builder.fmul(factor, rows[panel])
                rows[panel] = self._fma(builder, written, deltas[panel], kept)
                builder.store(rows[panel], self._vector(builder, row, panel), align=4)
        grown = []
        for vector, totals in asked:
            value = self._element(builder, vector, key)
            grown.append(
                [
                    self._fma(builder, value, part, total)
                    for part, total in zip(rows, totals, strict=True)
                ]
            )
            for total, larger in zip(totals, grown[-1], strict=True):
                total.add_incoming(_ZERO, before)
                total.add_incoming(larger, loop)
        following = builder.add(key, ir.Constant(_I64, 1))
        key.add_incoming(following, loop)
        builder.cbranch(builder.icmp_signed("<", following, keys), loop, after)
        builder.position_at_end(after)
        for index, totals in enumerate(grown):
            out = builder.add(sums, ir.Constant(_I64, index * COLUMNS * 4))
            for panel, total in enumerate(totals):
                builder.store(total, self._vector(builder, out, panel), align=4)

    def _vector(self, builder: Any, address: Any, panel: int) -> Any:
        at = builder.add(address, ir.Constant(_I64, panel * LANES * 4))
        return builder.inttoptr(at, _16F32.as_pointer())

    def _load(self, builder: Any, address: Any, panel: int) -> Any:
        return builder.load(self._vector(builder, address, panel), align=4)

    def _element(self, builder: Any, address: Any, index: Any) -> Any:
        """One float32 of a vector, in every lane."""
        at = builder.add(address, builder.mul(index, ir.Constant(_I64, 4)))
        pointer = builder.inttoptr(at, _F32.as_pointer())
        return self._spread(builder, builder.load(pointer, align=4))

    def _spread(self, builder: Any, value: Any) -> Any:
        undefined = ir.Constant(_16F32, ir.Undefined)
        first = builder.insert_element(undefined, value, ir.Constant(_I32, 0))
        lanes = ir.Constant(ir.VectorType(_I32, LANES), [0] * LANES)
        return builder.shuffle_vector(first, undefined, lanes)

    def _fma(self, builder: Any, a: Any, b: Any, c: Any) -> Any:
        kind = ir.FunctionType(_16F32, [_16F32] * 3)
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.fma.v16f32")
        return builder.call(function, [a, b, c])


def _pass(panels: int, *, updates: bool, asks: bool) -> Callable[..., Any]:
    """An intrinsic for exactly so many panels; operands as those of `passes`, without `panels`."""
    writer = _PassWriter(panels, updates=updates, asks=asks)

    @intrinsic
    def run(typing_context, state, stride, keys, decay, k, delta, next_k, next_q, sums):
        def generate(context, builder, signature, arguments):
            writer.write(builder, arguments)
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
