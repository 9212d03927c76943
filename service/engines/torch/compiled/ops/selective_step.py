"""One token's step of Mamba-1's selective scan for 16 channels, as LLVM vectors.

The lanes are channels, so that a state is as many vectors as it has numbers for a channel and
nothing is summed across lanes. Slots keep a channel's numbers together; `turn` exchanges the two.
"""

import math
from collections.abc import Callable
from typing import Any, Final

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from service.engines.torch.compiled.tiles import LANES

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

_I8, _I32, _I64, _F32 = ir.IntType(8), ir.IntType(32), ir.IntType(64), ir.FloatType()
_16I16, _16I32 = ir.VectorType(ir.IntType(16), LANES), ir.VectorType(_I32, LANES)
_16F32 = ir.VectorType(_F32, LANES)


class _Lanes:
    """Writes arithmetic on 16 float32 lanes."""

    def __init__(self, builder: Any) -> None:
        self.builder = builder

    def number(self, value: float) -> ir.Constant:
        """A constant."""
        return ir.Constant(_16F32, [value] * LANES)

    def word(self, value: int) -> ir.Constant:
        """An int32 constant."""
        return ir.Constant(_16I32, [value] * LANES)

    def load(self, address: Any) -> Any:
        """16 numbers."""
        return self.builder.load(self.builder.inttoptr(address, _16F32.as_pointer()), align=4)

    def store(self, value: Any, address: Any) -> None:
        """16 numbers, or 16 halves."""
        pointer = self.builder.inttoptr(address, value.type.as_pointer())
        self.builder.store(value, pointer, align=2)

    def splat(self, address: Any) -> Any:
        """One number in every lane."""
        value = self.builder.load(self.builder.inttoptr(address, _F32.as_pointer()), align=4)
        undefined = ir.Constant(_16F32, ir.Undefined)
        first = self.builder.insert_element(undefined, value, ir.Constant(_I32, 0))
        return self.builder.shuffle_vector(first, undefined, self.word(0))

    def fma(self, a: Any, b: Any, c: Any) -> Any:
        """`a * b + c`."""
        return self._call("fma", a, b, c)

    def exp2(self, x: Any) -> Any:
        """2 to a power of at most 126; powers below -126 are taken for that."""
        b, least = self.builder, self.number(-126.0)
        x = b.select(b.fcmp_ordered(">", least, x), least, x)  # NaN stays
        whole = self._call("rint", x)
        y = self._polynomial(b.fsub(x, whole), (*_EXP2, 1.0))
        power = b.shl(b.fptosi(whole, _16I32), self.word(23))
        return b.bitcast(b.add(b.bitcast(y, _16I32), power), _16F32)

    def softplus(self, x: Any) -> Any:
        """`log(1 + exp(x))`: the larger of x and 0, and log1p(u) with u = exp(-abs(x)).

        log1p(u) = 2 atanh(u / (2 + u)) holds the digits of a small u, of which time steps are made.
        """
        b, zero = self.builder, self.number(0.0)
        u = self.exp2(b.fmul(self._call("fabs", x), self.number(-_LOG2_E)))
        s = b.fdiv(u, b.fadd(u, self.number(2.0)))
        series = self._polynomial(b.fmul(s, s), (*_ATANH, 1.0))
        larger = b.select(b.fcmp_ordered(">", zero, x), zero, x)
        return self.fma(b.fadd(s, s), series, larger)

    def silu(self, x: Any) -> Any:
        """`x / (1 + exp(-x))`."""
        b, most = self.builder, self.number(126.0)
        power = b.fmul(x, self.number(-_LOG2_E))
        power = b.select(b.fcmp_ordered("<", most, power), most, power)
        return b.fdiv(x, b.fadd(self.exp2(power), self.number(1.0)))

    def to_bf16(self, x: Any) -> Any:
        """The nearest bfloat16 as 16 bits, ties to even."""
        b = self.builder
        bits = b.bitcast(x, _16I32)
        odd = b.and_(b.lshr(bits, self.word(16)), self.word(1))
        bits = b.add(bits, b.add(odd, self.word(0x7FFF)))
        return b.trunc(b.lshr(bits, self.word(16)), _16I16)

    def _polynomial(self, x: Any, coefficients: tuple[float, ...]) -> Any:
        y = self.number(coefficients[0])
        for coefficient in coefficients[1:]:
            y = self.fma(y, x, self.number(coefficient))
        return y

    def _call(self, name: str, *operands: Any) -> Any:
        kind = ir.FunctionType(_16F32, [_16F32] * len(operands))
        name = f"llvm.{name}.v16f32"
        function = cgutils.get_or_insert_function(self.builder.module, kind, name)
        return self.builder.call(function, operands)


def _long(value: int) -> ir.Constant:
    return ir.Constant(_I64, value)


def _prefetch(builder: Any, address: Any, stride: Any) -> None:
    byte = _I8.as_pointer()
    kind = ir.FunctionType(ir.VoidType(), [byte, _I32, _I32, _I32])
    prefetch = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    ahead = builder.add(address, builder.mul(stride, _long(_PREFETCH_TOKENS)))
    read, keep, data = (ir.Constant(_I32, value) for value in (0, 3, 1))
    builder.call(prefetch, [builder.inttoptr(ahead, byte), read, keep, data])


def _write_step(builder: Any, operands: Any, *, half: bool) -> None:
    """See `step`."""
    hidden_at, hidden_stride, delta_at, delta_stride, gate_at, gate_stride = operands[:6]
    bias_at, skip_at, decay_at, state_at, inputs_at, outputs_at, states, out_at = operands[6:]
    lanes = _Lanes(builder)
    for address, stride in (
        (hidden_at, hidden_stride),
        (delta_at, delta_stride),
        (gate_at, gate_stride),
    ):
        _prefetch(builder, address, stride)
    hidden = lanes.load(hidden_at)
    delta = lanes.softplus(builder.fadd(lanes.load(delta_at), lanes.load(bias_at)))
    driven = builder.fmul(delta, hidden)
    skipped = builder.fmul(hidden, lanes.load(skip_at))
    before = builder.block
    loop = builder.append_basic_block("states")
    after = builder.append_basic_block("states.end")
    builder.branch(loop)
    builder.position_at_end(loop)
    index, total = builder.phi(_I64), builder.phi(_16F32)
    index.add_incoming(_long(0), before)
    total.add_incoming(skipped, before)
    number, row = builder.mul(index, _long(4)), builder.mul(index, _long(4 * LANES))
    decay = lanes.load(builder.add(decay_at, row))
    kept = lanes.exp2(builder.fmul(delta, decay))
    place = builder.add(state_at, row)
    new = builder.fmul(driven, lanes.splat(builder.add(inputs_at, number)))
    state = lanes.fma(lanes.load(place), kept, new)
    lanes.store(state, place)
    mixed = lanes.fma(state, lanes.splat(builder.add(outputs_at, number)), total)
    following = builder.add(index, _long(1))
    index.add_incoming(following, loop)
    total.add_incoming(mixed, loop)
    builder.cbranch(builder.icmp_signed("<", following, states), loop, after)
    builder.position_at_end(after)
    result = builder.fmul(mixed, lanes.silu(lanes.load(gate_at)))
    lanes.store(lanes.to_bf16(result) if half else result, out_at)


def step(*, half: bool) -> Callable[..., Any]:
    """An intrinsic: advance the states of 16 channels by one token.

    Operands are addresses and, of what is read token by token, strides in bytes: (hidden, stride,
    delta, stride, gate, stride, delta's bias, skip, decay, state, inputs, outputs, states ≥ 1,
    out). Decay, A times log2(e), and state are (states, 16); inputs (B) and outputs (C) are
    (states,); the rest is (16,). `out` is bfloat16 if `half`, else float32.
    """

    @intrinsic
    def run(
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
    ):
        def generate(context, builder, signature, operands):
            _write_step(builder, operands, half=half)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 14), generate

    return run


@intrinsic
def turn(typing_context, source, source_stride, target, target_stride):
    """Transpose 16 by 16 numbers; strides in bytes."""

    def generate(context, builder, signature, operands):
        source, source_stride, target, target_stride = operands
        lanes = _Lanes(builder)
        rows = [
            lanes.load(builder.add(source, builder.mul(source_stride, _long(row))))
            for row in range(LANES)
        ]
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
                    builder.shuffle_vector(*pair, ir.Constant(_16I32, mask))
                    for mask in (own, other)
                )
        for row in range(LANES):
            lanes.store(rows[row], builder.add(target, builder.mul(target_stride, _long(row))))
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4), generate
