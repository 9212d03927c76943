"""Formats without quantization: float32, and bfloat16 in pairs."""

from typing import Final

import torch
from numba import njit

from service.torch_host.compiled.codegen.scalars import FAST, float32s, from_bf16, uint16s
from service.torch_host.compiled.codegen.tile_writers import BFloat16Tile, Float32Tile
from service.torch_host.compiled.formats.format import Format, Stream
from service.torch_host.compiled.formats.layout import interleaved, padded
from service.torch_host.compiled.uncompilable import Uncompilable


@njit(fastmath=FAST, error_model="numpy")
def _read_float32(at, jump, lane, target, width, scale, scales, row):
    values = float32s(target)
    for i in range(width):
        values[i] = float32s(at + i * jump)[0] * scale


@njit(fastmath=FAST, error_model="numpy")
def _read_bfloat16(at, jump, lane, target, width, scale, scales, row):
    values = float32s(target)
    for i in range(width):
        values[i] = from_bf16(uint16s(at + i // 2 * jump)[i % 2]) * scale


def _pack_float32(weight: torch.Tensor) -> Stream:
    return Stream(interleaved(padded(weight, weight.shape[1]).float()), None)


def _pack_bfloat16(weight: torch.Tensor) -> Stream:
    inputs = weight.shape[1]
    if inputs % 2:
        raise Uncompilable(f"{inputs} inputs are not pairs")
    return Stream(interleaved(padded(weight, inputs).bfloat16()), None)


FLOAT32: Final = Format(
    name="float32",
    code=0,
    plain=torch.float32,
    steps=lambda inputs: inputs,
    pack=_pack_float32,
    tile=Float32Tile,
    read_row=_read_float32,
)
BFLOAT16: Final = Format(
    name="bfloat16",
    code=1,
    plain=torch.bfloat16,
    steps=lambda inputs: inputs // 2,
    pack=_pack_bfloat16,
    tile=BFloat16Tile,
    read_row=_read_bfloat16,
)
