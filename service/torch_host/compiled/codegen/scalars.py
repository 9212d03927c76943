"""Scalar building blocks of kernels: typed memory, bfloat16, a vectorizable exponential.

Kernels are compiled by numba, which has no bfloat16 and no pointers; LLVM, which numba drives, has
both.
"""

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from service.torch_host.compiled.codegen.debug_mode import DEBUG, View, in_python

#: Rounding may be reassociated and contracted, but infinities and NaN keep their meaning: a model
#: that produces them must be found out.
FAST: Final = {"contract", "reassoc", "nsz", "arcp", "afn"}

_I32, _F32 = ir.IntType(32), ir.FloatType()


def _pointer(element: types.Type) -> Callable[..., Any]:
    """An intrinsic that takes an address for a pointer to elements of a type."""
    if DEBUG:
        return lambda address: View(address, getattr(np, element.name))

    @intrinsic
    def pointer(typing_context: Any, address: Any) -> Any:
        result = types.CPointer(element)

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.inttoptr(arguments[0], context.get_value_type(result))

        return result(types.int64), generate

    return pointer


int64s = _pointer(types.int64)
int32s = _pointer(types.int32)
float32s = _pointer(types.float32)
uint16s = _pointer(types.uint16)
int8s = _pointer(types.int8)
uint8s = _pointer(types.uint8)


@in_python(lambda bits: np.int32(bits).view(np.float32))
@intrinsic
def float_of(typing_context, bits):
    """The float32 that has these 32 bits."""

    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], _F32)

    return types.float32(types.int32), generate


@in_python(lambda value: np.float32(value).view(np.int32))
@intrinsic
def bits_of(typing_context, value):
    """The 32 bits of a float32."""

    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], _I32)

    return types.int32(types.float32), generate


@in_python(np.rint)
@intrinsic
def nearest(typing_context, value):
    """The nearest whole number of a float32, as float32."""

    def generate(context, builder, signature, arguments):
        kind = ir.FunctionType(_F32, [_F32])
        rint = cgutils.get_or_insert_function(builder.module, kind, "llvm.rint.f32")
        return builder.call(rint, arguments)

    return types.float32(types.float32), generate


@njit(inline="always")
def from_bf16(half):
    """float32 of a bfloat16 given as its 16 bits."""
    return float_of(types.int32(types.uint32(half) << types.uint32(16)))


@in_python(lambda half: np.float32(half.view(np.float16)))
@intrinsic
def from_f16(typing_context, half):
    """float32 of a float16 given as its 16 bits."""

    def generate(context, builder, signature, arguments):
        return builder.fpext(builder.bitcast(arguments[0], ir.HalfType()), _F32)

    return types.float32(types.uint16), generate


@njit(inline="always")
def to_bf16(value):
    """The 16 bits of the nearest bfloat16, ties to even; of any NaN one that is negative."""
    bits = types.uint32(bits_of(types.float32(value)))
    odd = (bits >> types.uint32(16)) & types.uint32(1)
    half = types.uint16((bits + types.uint32(0x7FFF) + odd) >> types.uint32(16))
    # Rounding up may carry a NaN of only ones past its exponent, into a zero.
    nan = (bits & types.uint32(0x7FFFFFFF)) > types.uint32(0x7F800000)
    return types.uint16(0xFFC0) if nan else half


@njit(inline="always")
def number(operand):
    """The float32 whose bits an int64 operand holds."""
    return float_of(types.int32(operand))


@njit(inline="always", fastmath=FAST, error_model="numpy")
def exp(value):
    """E to the power of a float32, to about 1e-7 of it; a loop over it becomes vectors.

    Range reduction and polynomial as in Cephes' expf.
    """
    x = min(max(types.float32(value), types.float32(-87.0)), types.float32(88.0))
    whole = nearest(x * types.float32(1.44269504088896341))
    rest = x - whole * types.float32(0.693359375) + whole * types.float32(2.12194440e-4)
    y = types.float32(1.9875691500e-4)
    y = y * rest + types.float32(1.3981999507e-3)
    y = y * rest + types.float32(8.3334519073e-3)
    y = y * rest + types.float32(4.1665795894e-2)
    y = y * rest + types.float32(1.6666665459e-1)
    y = y * rest + types.float32(5.0000001201e-1)
    y = y * rest * rest + rest + types.float32(1.0)
    power = (types.int32(whole) + types.int32(127)) << types.int32(23)
    return y * float_of(power)


@njit(inline="always", fastmath=FAST, error_model="numpy")
def sigmoid(value):
    """Logistic function of a float32."""
    return types.float32(1.0) / (types.float32(1.0) + exp(-value))
