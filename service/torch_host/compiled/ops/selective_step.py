"""One token's step of Mamba-1's selective scan for 16 channels, as LLVM vectors.

The lanes are channels, so that a state is as many vectors as it has numbers for a channel and
nothing is summed across lanes. Slots keep a channel's numbers together; `turn` exchanges the two.
"""

import math
from typing import Any, Final

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from service.torch_host.compiled.codegen.lanes import (
    FLOATS,
    LANES,
    WORDS,
    call,
    floats,
    fma,
    load,
    long,
    loop,
    plus,
    prefetch,
    spread,
    store,
    words,
)

#: Tokens whose inputs are fetched ahead: they lie a row apart, where the processor expects nothing.
_PREFETCH_TOKENS: Final = 4

_LOG2_E: Final = math.log2(math.e)

#: Of (2**x - 1) / x on [-0.5, 0.5], the highest power first: 2**x to 9e-8 of itself.
_EXP2: Final = (
    1.326472731307149e-3,
    9.671512991189957e-3,
    5.550733581185341e-2,
    0.24022242426872253,
    0.6931470036506653,
)
#: Of (atanh(sqrt(x)) / sqrt(x) - 1) / x on [0, 1/9], likewise to 5e-9.
_ATANH: Final = (
    0.14005990326404572,
    0.14000903069972992,
    0.2001076340675354,
    0.3333320915699005,
)

_HALVES: Final = ir.VectorType(ir.IntType(16), LANES)


class _Lanes:
    """Writes functions of 16 float32 lanes."""

    def __init__(self, builder: Any) -> None:
        self.builder = builder

    def exp2(self, x: Any) -> Any:
        """2 to a power of at most 126; powers below -126 are taken for that."""
        b, least = self.builder, floats(-126.0)
        x = b.select(b.fcmp_ordered(">", least, x), least, x)  # NaN stays
        whole = call(b, "rint", x)
        y = self._polynomial(b.fsub(x, whole), (*_EXP2, 1.0))
        power = b.shl(b.fptosi(whole, WORDS), words(23))
        return b.bitcast(b.add(b.bitcast(y, WORDS), power), FLOATS)

    def softplus(self, x: Any) -> Any:
        """`log(1 + exp(x))`: the larger of x and 0, and log1p(u) with u = exp(-abs(x)).

        log1p(u) = 2 atanh(u / (2 + u)) holds the digits of a small u, of which time steps are made.
        """
        b, zero = self.builder, floats(0.0)
        u = self.exp2(b.fmul(call(b, "fabs", x), floats(-_LOG2_E)))
        s = b.fdiv(u, b.fadd(u, floats(2.0)))
        series = self._polynomial(b.fmul(s, s), (*_ATANH, 1.0))
        larger = b.select(b.fcmp_ordered(">", zero, x), zero, x)
        return fma(b, b.fadd(s, s), series, larger)

    def silu(self, x: Any) -> Any:
        """`x / (1 + exp(-x))`."""
        b, most = self.builder, floats(126.0)
        power = b.fmul(x, floats(-_LOG2_E))
        power = b.select(b.fcmp_ordered("<", most, power), most, power)
        return b.fdiv(x, b.fadd(self.exp2(power), floats(1.0)))

    def to_bf16(self, x: Any) -> Any:
        """The nearest bfloat16 as 16 bits, ties to even; of any NaN one that is negative."""
        b = self.builder
        bits = b.bitcast(x, WORDS)
        odd = b.and_(b.lshr(bits, words(16)), words(1))
        half = b.lshr(b.add(bits, b.add(odd, words(0x7FFF))), words(16))
        half = b.select(b.fcmp_unordered("uno", x, x), words(0xFFC0), half)
        return b.trunc(half, _HALVES)

    def _polynomial(self, x: Any, coefficients: tuple[float, ...]) -> Any:
        y = floats(coefficients[0])
        for coefficient in coefficients[1:]:
            y = fma(self.builder, y, x, floats(coefficient))
        return y


def _write_step(builder: Any, operands: Any) -> None:
    """See `step`."""
    hidden_at, hidden_stride, delta_at, delta_stride, gate_at, gate_stride = operands[:6]
    bias_at, skip_at, decay_at, state_at, inputs_at, outputs_at, states, out_at, half = operands[6:]
    lanes = _Lanes(builder)
    for address, stride in (
        (hidden_at, hidden_stride),
        (delta_at, delta_stride),
        (gate_at, gate_stride),
    ):
        prefetch(builder, plus(builder, address, stride, _PREFETCH_TOKENS))
    hidden = load(builder, hidden_at)
    delta = lanes.softplus(builder.fadd(load(builder, delta_at), load(builder, bias_at)))
    driven = builder.fmul(delta, hidden)
    skipped = builder.fmul(hidden, load(builder, skip_at))

    def advance(index: Any, totals: Any) -> Any:
        number, row = builder.mul(index, long(4)), builder.mul(index, long(4 * LANES))
        decay = load(builder, builder.add(decay_at, row))
        kept = lanes.exp2(builder.fmul(delta, decay))
        place = builder.add(state_at, row)
        new = builder.fmul(driven, spread(builder, builder.add(inputs_at, number)))
        state = fma(builder, load(builder, place), kept, new)
        store(builder, state, place)
        return [fma(builder, state, spread(builder, builder.add(outputs_at, number)), totals[0])]

    (mixed,) = loop(builder, states, [skipped], advance)
    result = builder.fmul(mixed, lanes.silu(load(builder, gate_at)))
    with builder.if_else(builder.icmp_signed("!=", half, long(0))) as (halves, whole):
        with halves:
            store(builder, lanes.to_bf16(result), out_at, align=2)
        with whole:
            store(builder, result, out_at)


@intrinsic
def step(
    typing_context,
    hidden,
    hidden_stride,
    delta,
    delta_stride,
    gate,
    gate_stride,
    bias,
    skip,
    decay,
    state,
    inputs,
    outputs,
    states,
    out,
    half,
):
    """Advance the states of 16 channels by one token.

    Operands are addresses and, of what is read token by token, strides in bytes. Decay, A times
    log2(e), and state are (states, 16); inputs (B) and outputs (C) are (states,), states ≥ 1; the
    rest is (16,). `out` is bfloat16 if `half` is not 0, else float32.
    """

    def generate(context, builder, signature, operands):
        _write_step(builder, operands)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 15), generate


@intrinsic
def turn(typing_context, source, source_stride, target, target_stride):
    """Transpose 16 by 16 numbers; strides in bytes."""

    def generate(context, builder, signature, operands):
        source, source_stride, target, target_stride = operands
        rows = [load(builder, plus(builder, source, source_stride, row)) for row in range(LANES)]
        for distance in (8, 4, 2, 1):
            own = [
                lane if not lane & distance else LANES + lane - distance for lane in range(LANES)
            ]
            other = [
                lane + distance if not lane & distance else LANES + lane for lane in range(LANES)
            ]
            for row in (row for row in range(LANES) if not row & distance):
                pair = rows[row], rows[row + distance]
                rows[row], rows[row + distance] = (
                    builder.shuffle_vector(*pair, ir.Constant(WORDS, mask)) for mask in (own, other)
                )
        for row in range(LANES):
            store(builder, rows[row], plus(builder, target, target_stride, row))
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4), generate
