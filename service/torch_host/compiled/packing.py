"""Matrices of a program: packed in its formats, or taken from an earlier packing."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch.nn import functional

from service.torch_host.compiled.codegen.lanes import LANES
from service.torch_host.compiled.formats.format import Format
from service.torch_host.compiled.formats.grouped import matrix_of
from service.torch_host.compiled.program import Program
from service.torch_host.compiled.quantized import Groups, attached


class Packed(NamedTuple):
    """A packed matrix; its bias and, if it is int8, its outputs' scales, in float32, or 0."""

    kind: Format
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
    kind: Format | None = None,
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
            matrix = (program.matrices if kind is None else kind).matrix(weight)
        else:
            matrix = matrix_of(groups, inputs=inputs)
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
