"""Matrices in the order in which tiles read them.

A matrix (outputs, inputs) is cut into panels of 16 outputs, whose lanes lie side by side; four
panels are interleaved, so that a product reads the whole matrix as one stream.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from service.engines.torch.compiled.program import Kind, Program, aligned_bytes
from service.engines.torch.compiled.tiles import LANES

_INTERLEAVED = 4


class Packed(NamedTuple):
    """A packed matrix and, if the layer has one, its bias in float32."""

    kind: Kind
    address: int
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
        return self.inputs // (2 if self.kind is Kind.BFLOAT16 else 1)


def pack(
    program: Program, weights: Sequence[torch.Tensor], biases: Sequence[torch.Tensor | None] = ()
) -> Packed:
    """Pack matrices (outputs, inputs) one below the other.

    Raises ValueError if there are bfloat16 matrices with an odd number of inputs.
    """
    kind = program.kind
    weight = torch.cat([matrix.detach() for matrix in weights]).to(kind.dtype)
    outputs, inputs = weight.shape
    if kind is Kind.BFLOAT16 and inputs % 2:
        raise ValueError(f"{inputs} inputs are not pairs")
    padded = -(-outputs // LANES) * LANES
    bias = None
    if any(one is not None for one in biases):
        parts = [
            torch.zeros(matrix.shape[0], dtype=torch.float32)
            if one is None
            else one.detach().float()
            for matrix, one in zip(weights, biases, strict=True)
        ]
        bias = torch.nn.functional.pad(torch.cat(parts), (0, padded - outputs))
    weight = torch.nn.functional.pad(weight, (0, 0, 0, padded - outputs))
    storage = aligned_bytes(weight.nbytes)
    target = storage.view(kind.dtype)
    depth = 2 if kind is Kind.BFLOAT16 else 1
    whole = padded // (LANES * _INTERLEAVED) * LANES * _INTERLEAVED
    for rows in (slice(0, whole), slice(whole, padded)):
        part = weight[rows]
        if part.shape[0]:
            panels = min(_INTERLEAVED, part.shape[0] // LANES)
            cut = part.view(-1, panels, LANES, inputs // depth, depth).permute(0, 3, 1, 2, 4)
            target[rows.start * inputs : rows.stop * inputs].view(cut.shape).copy_(cut)
    return Packed(kind, program.hold(storage), program.vector(bias), inputs, padded)
