"""Codes of 4 or 8 bits with a float16 scale and minimum for every 32 inputs of an output."""

from functools import partial
from typing import Final

import torch
from numba import njit, types
from torch.nn import functional

from service.torch_host.compiled.codegen.lanes import LANES
from service.torch_host.compiled.codegen.quantized_tiles import (
    SMALL_GROUP,
    Grouped4Tile,
    Grouped8Tile,
)
from service.torch_host.compiled.codegen.scalars import float32s, from_f16, uint8s, uint16s
from service.torch_host.compiled.formats.format import Format, Matrix, Stream
from service.torch_host.compiled.formats.int8 import INT8
from service.torch_host.compiled.formats.layout import interleaved
from service.torch_host.compiled.quantized import Groups, by_group


@njit
def _read_row4(at, jump, lane, target, width, scale, scales, row):
    values = float32s(target)
    for group in range((width + 31) // 32):
        head, first = at - lane * 4 + group * 5 * jump, at + (group * 5 + 1) * jump
        factor = from_f16(uint16s(head)[lane]) * scale
        least = from_f16(uint16s(head)[16 + lane]) * scale
        for i in range(min(32, width - group * 32)):
            both = uint8s(first + i // 8 * jump)[i % 4]
            code = types.float32(both & 15 if i % 8 < 4 else both >> 4)
            values[group * 32 + i] = code * factor + least


@njit
def _read_row8(at, jump, lane, target, width, scale, scales, row):
    values = float32s(target)
    for group in range((width + 31) // 32):
        head, first = at - lane * 4 + group * 9 * jump, at + (group * 9 + 1) * jump
        factor = from_f16(uint16s(head)[lane]) * scale
        least = from_f16(uint16s(head)[16 + lane]) * scale
        for i in range(min(32, width - group * 32)):
            code = types.float32(uint8s(first + i // 4 * jump)[i % 4])
            values[group * 32 + i] = code * factor + least


def _steps(code_bits: int, inputs: int) -> int:
    """A step with a group's scales and minima, then those of its codes."""
    return -(-inputs // SMALL_GROUP) * (1 + SMALL_GROUP * code_bits // 32)


def _stream(groups: Groups) -> Stream:
    outputs, count = groups.scales.shape
    below = -outputs % LANES
    scales, minima, codes = (
        functional.pad(part, (0, 0, 0, below))
        for part in (groups.scales, groups.minima, groups.codes)
    )
    panels = (outputs + below) // LANES
    both = torch.stack([scales.half(), minima.half()]).view(2, panels, LANES, count)
    heads = both.permute(1, 3, 0, 2).contiguous().view(torch.uint8)
    heads = heads.view(panels, count, LANES, 4).transpose(1, 2).reshape(-1, count, 1, 4)
    if groups.code_bits == 4:
        low, high = codes.view(outputs + below, count, -1, 2, 4).unbind(3)
        codes = low | (high << 4)
    steps = codes.reshape(outputs + below, count, -1, 4)
    return Stream(interleaved(torch.cat([heads, steps], dim=2).flatten(1)), None)


def _pack4(weight: torch.Tensor) -> Stream:
    return _stream(by_group(weight))


def _pack8(weight: torch.Tensor) -> Stream:
    raise NotImplementedError("groups of 8-bit codes come from files; weights are rounded to int8")


GROUPED4: Final = Format(
    name="4 bits in groups",
    code=3,
    group_inputs=SMALL_GROUP,
    steps=partial(_steps, 4),
    pack=_pack4,
    tile=Grouped4Tile,
    read_row=_read_row4,
    embeddings=INT8,
)
GROUPED8: Final = Format(
    name="8 bits in groups",
    code=4,
    group_inputs=SMALL_GROUP,
    steps=partial(_steps, 8),
    pack=_pack8,
    tile=Grouped8Tile,
    read_row=_read_row8,
)


def matrix_of(groups: Groups, *, inputs: int) -> Matrix:
    """A matrix of groups as they are, nothing rounded again; the last may be padded."""
    kind = GROUPED4 if groups.code_bits == 4 else GROUPED8
    return Matrix(kind, inputs, groups.codes.shape[0], *_stream(groups))
