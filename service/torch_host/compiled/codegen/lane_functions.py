"""Exponential, softplus, SiLU and rounding to bfloat16 of 16 float32 lanes, as LLVM code."""

import math
from typing import Any, Final

from llvmlite import ir

from service.torch_host.compiled.codegen.lanes import (
    FLOATS,
    LANES,
    WORDS,
    call,
    floats,
    fma,
    words,
)

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


class LaneFunctions:
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
