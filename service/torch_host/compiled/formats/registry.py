"""All formats, and the kernel functions that dispatch on their codes."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from numba import njit

from service.torch_host.compiled.codegen.tiles import tiled
from service.torch_host.compiled.formats.floats import BFLOAT16, FLOAT32
from service.torch_host.compiled.formats.format import Format
from service.torch_host.compiled.formats.grouped import GROUPED4, GROUPED8
from service.torch_host.compiled.formats.int8 import INT8

FORMATS: Final = (FLOAT32, BFLOAT16, INT8, GROUPED4, GROUPED8)
"""Every format; those that follow the first two are of matrices only."""

VARIANTS: Final[Mapping[str, Format | None]] = {"int8": INT8, "int4": GROUPED4, "gguf": None}
"""Format of each quantization; None where a file's own groups say."""

_BY_CODE: Final = {kind.code: kind for kind in FORMATS}
assert len(_BY_CODE) == len(FORMATS)


def format_of(code: int) -> Format | None:
    """The format with a code, None if there is none."""
    return _BY_CODE.get(code)


def _or_tile(kind: Format, others: Callable[..., Any] | None) -> Callable[..., Any]:
    """Choose a format's tiles where the first operand is its code, else what others choose."""
    code, own = kind.code, tiled(kind.tile)

    @njit
    def last(kind, x, xs, w, ps, ss, steps, scales, out, os, scale, add, rows, panels):
        own(x, xs, w, ps, ss, steps, scales, out, os, scale, add, rows, panels)

    @njit
    def choose(kind, x, xs, w, ps, ss, steps, scales, out, os, scale, add, rows, panels):
        if kind == code:
            own(x, xs, w, ps, ss, steps, scales, out, os, scale, add, rows, panels)
        else:
            others(kind, x, xs, w, ps, ss, steps, scales, out, os, scale, add, rows, panels)

    return last if others is None else choose


def _or_row(kind: Format, others: Callable[..., Any] | None) -> Callable[..., Any]:
    """Choose a format's reader of rows where the first operand is its code, likewise."""
    code, own = kind.code, kind.read_row

    @njit
    def last(kind, at, jump, lane, target, width, scale, scales, row):
        own(at, jump, lane, target, width, scale, scales, row)

    @njit
    def choose(kind, at, jump, lane, target, width, scale, scales, row):
        if kind == code:
            own(at, jump, lane, target, width, scale, scales, row)
        else:
            others(kind, at, jump, lane, target, width, scale, scales, row)

    return last if others is None else choose


def _chain(
    link: Callable[[Format, Callable[..., Any] | None], Callable[..., Any]],
    formats: tuple[Format, ...],
    others: Callable[..., Any] | None = None,
) -> Callable[..., Any]:
    for kind in formats:
        others = link(kind, others)
    assert others is not None
    return others


# The format is an operand because numba keeps no machine code of functions made in functions.
multiply_floats = _chain(_or_tile, FORMATS[:2])
"""Tiles of operands that are not quantized, for any number of rows and panels."""
multiply = _chain(_or_tile, FORMATS[2:], multiply_floats)
"""Tiles of operands of any format, for any number of rows and panels."""
read_row = _chain(_or_row, FORMATS)
"""Reader of one row of a packed matrix, as float32."""
