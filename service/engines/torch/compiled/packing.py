"""Matrices in the order in which tiles read them.

A matrix (outputs, inputs) is cut into panels of 16 outputs, whose lanes lie side by side; four
panels are interleaved, so that a product reads the whole matrix as one stream.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

import torch
from torch.nn import functional

from service.engines.torch.compiled.lanes import LANES
from service.engines.torch.compiled.program import Kind, Program, Uncompilable, aligned_bytes
from service.engines.torch.compiled.tiles import GROUP

_INTERLEAVED: Final = 4
#: Inputs of one step, which fill 32 bits a lane.
_DEPTHS: Final = {Kind.FLOAT32: 1, Kind.BFLOAT16: 2, Kind.INT8: 4}


class Packed(NamedTuple):
    """A packed matrix; its bias and, if it is int8, its outputs' scales, in float32, or 0."""

    kind: Kind
    address: int
    scales: int
    bias: int
    inputs: int
    outputs: int
    """Rounded up to whole panels: the columns that a product writes."""

    @property
    def panels(self) -> int:
        """Panels of 16 outputs."""
        return self.outputs // LANES

    @property
    def steps(self) -> int:
        """Steps of a tile along the inputs."""
        return _padded_inputs(self.inputs, self.kind) // _DEPTHS[self.kind]


def pack(
    program: Program,
    weights: Sequence[torch.Tensor],
    biases: Sequence[torch.Tensor | None] = (),
    *,
    exact: bool = False,
) -> Packed:
    """Pack matrices (outputs, inputs) one below the other; never as int8 if `exact`.

    Raises Uncompilable if there are bfloat16 matrices with an odd number of inputs.
    """
    kind = program.kind if exact else program.matrices
    weight = torch.cat([matrix.detach() for matrix in weights])
    outputs, inputs = weight.shape
    if kind is Kind.BFLOAT16 and inputs % 2:
        raise Uncompilable(f"{inputs} inputs are not pairs")
    padded = -(-outputs // LANES) * LANES
    bias = None
    if any(one is not None for one in biases):
        parts = [
            torch.zeros(matrix.shape[0], dtype=torch.float32)
            if one is None
            else one.detach().float()
            for matrix, one in zip(weights, biases, strict=True)
        ]
        bias = functional.pad(torch.cat(parts), (0, padded - outputs))
    weight = functional.pad(weight, (0, _padded_inputs(inputs, kind) - inputs, 0, padded - outputs))
    scales = 0
    if kind is Kind.INT8:
        weight, of_outputs = _quantized(weight)
        scales = program.vector(of_outputs)
    else:
        weight = weight.to(kind.dtype)
    address = program.hold(_interleaved(weight, _DEPTHS[kind]))
    return Packed(kind, address, scales, program.vector(bias), inputs, padded)


def _padded_inputs(inputs: int, kind: Kind) -> int:
    return -(-inputs // GROUP) * GROUP if kind is Kind.INT8 else inputs


def _quantized(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """8-bit numbers with 128 added, and each output's scale: its largest weight becomes 127."""
    weight = weight.float()
    scales = weight.abs().amax(1).clamp(min=torch.finfo(torch.float32).tiny) / 127
    whole = (weight / scales[:, None]).round_().clamp_(-127, 127)
    return (whole + 128).to(torch.uint8), scales


def _interleaved(weight: torch.Tensor, depth: int) -> torch.Tensor:
    """(outputs, inputs) in the order of a product's stream, as bytes."""
    outputs, inputs = weight.shape
    storage = aligned_bytes(weight.nbytes)
    target = storage.view(weight.dtype)
    whole = outputs // (LANES * _INTERLEAVED) * LANES * _INTERLEAVED
    for rows in (slice(0, whole), slice(whole, outputs)):
        part = weight[rows]
        if part.shape[0]:
            panels = min(_INTERLEAVED, part.shape[0] // LANES)
            cut = part.view(-1, panels, LANES, inputs // depth, depth).permute(0, 3, 1, 2, 4)
            target[rows.start * inputs : rows.stop * inputs].view(cut.shape).copy_(cut)
    return storage
