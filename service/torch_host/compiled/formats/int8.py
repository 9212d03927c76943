"""8-bit numbers with a scale for each output."""

from typing import Final

import torch
from numba import njit, types

from service.torch_host.compiled.codegen.quantized_tiles import GROUP, Int8Tile
from service.torch_host.compiled.codegen.scalars import FAST, float32s, uint8s
from service.torch_host.compiled.formats.format import Format, Stream
from service.torch_host.compiled.formats.layout import interleaved, padded
from service.torch_host.compiled.quantized import by_output


@njit(fastmath=FAST, error_model="numpy")
def _read_row(at, jump, lane, target, width, scale, scales, row):
    values, factor = float32s(target), float32s(scales)[row] * scale
    for i in range(width):
        stored = types.float32(uint8s(at + i // 4 * jump)[i % 4])
        values[i] = (stored - types.float32(128.0)) * factor


def _steps(inputs: int) -> int:
    return -(-inputs // GROUP) * GROUP // 4


def _pack(weight: torch.Tensor) -> Stream:
    codes, scales = by_output(padded(weight, _steps(weight.shape[1]) * 4))
    return Stream(interleaved(codes), scales)


INT8: Final = Format(
    name="int8",
    code=2,
    group_inputs=GROUP,
    steps=_steps,
    pack=_pack,
    tile=Int8Tile,
    read_row=_read_row,
)
