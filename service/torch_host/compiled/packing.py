"""Matrices in the order in which tiles read them.

A matrix (outputs, inputs) is cut into panels of 16 outputs, whose lanes lie side by side; four
panels are interleaved, so that a product reads the whole matrix as one stream. A step of a panel is
64 bytes of it, 32 bits a lane.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

import torch
from torch.nn import functional

from service.torch_host.compiled.codegen.lanes import LANES
from service.torch_host.compiled.program import (
    Kind,
    Matrix,
    Program,
    Uncompilable,
    aligned_bytes,
)
from service.torch_host.compiled.quantized import Groups, attached, by_group, by_output

_INTERLEAVED: Final = 4


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
        return self.kind.steps(self.inputs)


def pack(
    program: Program,
    weights: Sequence[torch.Tensor],
    biases: Sequence[torch.Tensor | None] = (),
    *,
    kind: Kind | None = None,
) -> Packed:
    """Pack matrices (outputs, inputs) one below the other, as the program's kind of matrices.

    Weights to which groups are attached keep those, unless another kind is asked for.
    Raises Uncompilable if there are bfloat16 matrices with an odd number of inputs.
    """
    outputs, inputs = sum(weight.shape[0] for weight in weights), int(weights[0].shape[1])
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
    matrix = program.following()
    if matrix is None:
        groups = _kept(weights) if kind is None else None
        if groups is None:
            weight = torch.cat([part.detach() for part in weights])
            matrix = _matrix(program.matrices if kind is None else kind, weight)
        else:
            kind = Kind.GROUPED4 if groups.code_bits == 4 else Kind.GROUPED8  # noqa: PLR2004
            matrix = Matrix(kind, inputs, outputs, _grouped_stream(groups), None)
    if (matrix.inputs, matrix.outputs) != (inputs, outputs):
        found = f"{matrix.outputs} x {matrix.inputs}"
        raise ValueError(f"a stored matrix is {found}, the model's {outputs} x {inputs}")
    address, scales = program.keep(matrix)
    return Packed(matrix.kind, address, scales, program.vector(bias), inputs, padded)


def _kept(weights: Sequence[torch.Tensor]) -> Groups | None:
    """The groups that all of the weights have, None if one has none."""
    reads = [attached(weight) for weight in weights]
    groups = [read() for read in reads if read is not None]
    if not groups or len(groups) < len(weights):
        return None
    codes, scales, minima, bits = zip(*groups, strict=True)
    return Groups(torch.cat(codes), torch.cat(scales), torch.cat(minima), max(bits))


def _matrix(kind: Kind, weight: torch.Tensor) -> Matrix:
    outputs, inputs = weight.shape
    if kind is Kind.BFLOAT16 and inputs % 2:
        raise Uncompilable(f"{inputs} inputs are not pairs")
    if kind is Kind.GROUPED4:
        return Matrix(kind, inputs, outputs, _grouped_stream(by_group(weight)), None)
    pads = kind.steps(inputs) * kind.inputs_per_step - inputs, -outputs % LANES
    weight = functional.pad(weight, (0, pads[0], 0, pads[1]))
    if kind is Kind.INT8:
        codes, scales = by_output(weight)
        return Matrix(kind, inputs, outputs, _interleaved(codes), scales)
    return Matrix(kind, inputs, outputs, _interleaved(weight.to(kind.dtype)), None)


def _grouped_stream(groups: Groups) -> torch.Tensor:
    """Of each group a step with scales and minima, then its codes, as a grouped tile reads them."""
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
    if groups.code_bits == 4:  # noqa: PLR2004 - nibbles
        low, high = codes.view(outputs + below, count, -1, 2, 4).unbind(3)
        codes = low | (high << 4)
    steps = codes.reshape(outputs + below, count, -1, 4)
    return _interleaved(torch.cat([heads, steps], dim=2).flatten(1))


def _interleaved(weight: torch.Tensor) -> torch.Tensor:
    """(outputs, elements) in the order of a product's stream, as bytes."""
    outputs, elements = weight.shape
    depth = 4 // weight.element_size()
    storage = aligned_bytes(weight.nbytes)
    target = storage.view(weight.dtype)
    whole = outputs // (LANES * _INTERLEAVED) * LANES * _INTERLEAVED
    for rows in (slice(0, whole), slice(whole, outputs)):
        part = weight[rows]
        if part.shape[0]:
            panels = min(_INTERLEAVED, part.shape[0] // LANES)
            cut = part.view(-1, panels, LANES, elements // depth, depth).permute(0, 3, 1, 2, 4)
            target[rows.start * elements : rows.stop * elements].view(cut.shape).copy_(cut)
    return storage
