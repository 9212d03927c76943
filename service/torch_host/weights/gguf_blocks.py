"""A GGUF file's own packed blocks as groups of codes: the same scales, minima and codes.

Layouts of the blocks: `ggml-common.h` of https://github.com/ggml-org/ggml.
"""

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from transformers import PreTrainedModel

from model_registry.errors import CorruptFile
from model_registry.sources.gguf_convert import hugging_face_name, in_order
from model_registry.sources.gguf_header import TensorInfo, read_header
from service.torch_host.compiled.quantized import Groups, attach

log = logging.getLogger(__name__)

Bytes = np.ndarray[Any, np.dtype[np.uint8]]


class _Blocks(NamedTuple):
    """Layout of a block of 32 values."""

    code_bits: int
    """Bits of a code in the groups that blocks become."""
    bits: int
    """Bits of a stored value."""
    zero: int
    """The code that stands for 0 if there is no minimum."""
    minimum: bool = False


_TYPES: Final = {
    GGMLQuantizationType.Q4_0: _Blocks(4, 4, 8),
    GGMLQuantizationType.Q4_1: _Blocks(4, 4, 0, minimum=True),
    GGMLQuantizationType.Q5_0: _Blocks(8, 5, 16),
    GGMLQuantizationType.Q5_1: _Blocks(8, 5, 0, minimum=True),
    GGMLQuantizationType.Q8_0: _Blocks(8, 8, 128),
}


def attach_blocks(network: PreTrainedModel, path: Path) -> None:
    """Attach the blocks of a GGUF file to the weights that were converted from them.

    Weights of other types stay as they were converted; the log names the types.

    Raises:
        CorruptFile: the file is damaged, or is of another network.
        UnsupportedArchitecture: a tensor that no dense Llama has.
    """
    header = read_header(path)
    config = network.config.to_dict()
    parameters = dict(network.named_parameters())
    data = np.memmap(path, dtype=np.uint8, mode="r")
    plain: Counter[str] = Counter()
    for info in header.tensors:
        name = hugging_face_name(info.name, config["num_hidden_layers"])
        parameter = parameters.get(name)
        if parameter is None or tuple(parameter.shape) != info.shape:
            raise CorruptFile(f"{path}: {info.name!r} is not a tensor of this model")
        if info.type in _TYPES:
            attach(parameter, partial(_read, data, info, name, config))
        elif len(info.shape) > 1:
            plain[info.type.name] += 1
    for kind, count in plain.items():
        log.warning("%s: %d matrices of %s are kept dequantized", path, count, kind)


def _read(data: Bytes, info: TensorInfo, name: str, config: Mapping[str, Any]) -> Groups:
    raw = data[info.offset_bytes : info.offset_bytes + info.size_bytes]
    groups = blocks_to_groups(raw, info.shape, info.type)
    ordered: Callable[[torch.Tensor], torch.Tensor] = lambda part: torch.from_numpy(  # noqa: E731
        np.ascontiguousarray(in_order(part.numpy(), name, config))
    )
    return Groups(
        ordered(groups.codes), ordered(groups.scales), ordered(groups.minima), groups.code_bits
    )


def blocks_to_groups(raw: Bytes, shape: tuple[int, ...], kind: GGMLQuantizationType) -> Groups:
    """Convert a matrix's blocks to groups without rounding.

    Raises CorruptFile if a scale is too large for its type.
    """
    layout = _TYPES[kind]
    blocks = np.array(raw).reshape(-1, GGML_QUANT_SIZES[kind][1])
    scales = blocks[:, :2].copy().view(np.float16)
    at = 2
    if layout.minimum:
        minima, at = blocks[:, 2:4].copy().view(np.float16), 4
    else:
        minima = scales * np.float16(-layout.zero)
    codes = _codes(blocks[:, at:], layout)
    if not (np.isfinite(scales).all() and np.isfinite(minima).all()):
        raise CorruptFile(f"a block of {kind.name} has a scale that is not finite")
    outputs, count = shape[0], shape[1] // 32
    return Groups(
        torch.from_numpy(codes.reshape(shape)),
        torch.from_numpy(scales.reshape(outputs, count)),
        torch.from_numpy(minima.reshape(outputs, count)),
        layout.code_bits,
    )


def _codes(stored: Bytes, layout: _Blocks) -> Bytes:
    """Unsigned codes (blocks, 32)."""
    if layout.bits == 8:  # noqa: PLR2004 - signed bytes
        return (stored.view(np.int8).astype(np.int16) + layout.zero).astype(np.uint8)
    nibbles = stored[:, -16:]
    codes = np.concatenate([nibbles & 15, nibbles >> 4], axis=1)
    if layout.bits == 5:  # noqa: PLR2004 - four bytes hold the highest bits
        highest = np.unpackbits(stored[:, :4].copy(), axis=1, bitorder="little")
        codes |= highest << 4
    return codes
