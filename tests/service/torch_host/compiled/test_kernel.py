"""Operands of kernels are given by name, and checked when a program is assembled."""

import re

import numpy as np
import pytest

from service.torch_host.compiled.codegen.scalars import float32s, int64s, number
from service.torch_host.compiled.formats.floats import FLOAT32
from service.torch_host.compiled.kernel import Buffer, Float32, Kernel
from service.torch_host.compiled.program import Program


@Kernel
def _copy(batch_head, thread, threads, x, x_stride, width, out, factor: Float32, last):  # noqa: PLR0913, PLR0917
    values, results = float32s(x), float32s(out)
    for i in range(width):
        results[i] = values[i] * number(factor) + x_stride + int64s(batch_head)[0] + last


@pytest.fixture
def program() -> Program:
    return Program(FLOAT32, max_tokens=1, threads=1)


def test_operands_reach_the_kernel_by_name(program):
    """In any order; a buffer brings its stride, a whole number stands for a float."""
    x, out = np.arange(3, dtype=np.float32), np.zeros(3, dtype=np.float32)
    x_buffer = Buffer(x.ctypes.data, 1000, 3)
    program.add(_copy, last=5, factor=2, out=out.ctypes.data, width=3, x=x_buffer)
    program.finish()
    program.head[0] = 20000

    program.run()

    assert out.tolist() == [21005.0, 21007.0, 21009.0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"wide": 3}, "copy has no operand 'wide'"),
        ({"x_stride": 3}, "copy has no operand 'x_stride', or has it twice"),
        ({"width": 3.5}, "copy: width must be an integer, not 3.5"),
        ({"factor": None}, "copy: factor must be a number, not None"),
    ],
)
def test_wrong_operands_are_refused_when_they_are_given(program, changes, message):
    """By the names of kernel and operand, before anything runs."""
    operands = {"x": None, "width": 0, "out": None, "factor": 1.0, "last": 0}

    with pytest.raises(TypeError, match=re.escape(message)):
        program.add(_copy, **(operands | changes))


def test_missing_operands_are_named(program):
    """A kernel never reads what nobody gave."""
    with pytest.raises(TypeError, match="copy lacks the operands out, factor, last"):
        program.add(_copy, x=None, width=0)
