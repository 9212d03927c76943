"""A storage format of matrices, and a matrix stored in it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from msgspec import Struct

from service.torch_host.compiled.codegen.tile_writers import Tile


class Stream(NamedTuple):
    """A packed matrix."""

    bytes: torch.Tensor
    """uint8, in the order in which a product reads them."""
    scales: torch.Tensor | None
    """float32 (outputs,), where the format has one an output."""


class Format(Struct, frozen=True, eq=False, kw_only=True):
    """A storage format of a matrix's elements, and every function that depends on it."""

    name: str
    code: int
    """The operand by which kernels tell formats apart; stored in packed files, never reused."""
    steps: Callable[[int], int]
    """Tile steps by number of inputs; a step is 32 bits of each of a panel's columns."""
    pack: Callable[[torch.Tensor], Stream]
    """Pack a matrix (outputs, inputs). Raises Uncompilable if its shape has no packing."""
    tile: type[Tile]
    read_row: Any
    """A compiled function: one row, times a scale, as float32.

    Operands: address of the row's lane in its first step, bytes from one step to the next, lane,
    target, width, scale, address of the outputs' scales, row."""
    plain: torch.dtype | None = None
    """Type of the elements, None if they are quantized."""
    group_inputs: int = 0
    """Inputs whose activations share a scale, 0 if activations are not quantized."""
    embeddings: "Format | None" = None
    """Format of embeddings and of the matrix of the logits, if this one is too coarse for them."""

    def __int__(self) -> int:
        """The code, as an operand of a kernel."""
        return self.code

    def __repr__(self) -> str:
        """Show the name."""
        return self.name

    @property
    def dtype(self) -> torch.dtype:
        """Type of an element that is not quantized."""
        assert self.plain is not None
        return self.plain

    @property
    def bytes(self) -> int:
        """Bytes of an element that is not quantized."""
        return self.dtype.itemsize

    def matrix(self, weight: torch.Tensor) -> "Matrix":
        """Pack a matrix (outputs, inputs)."""
        outputs, inputs = weight.shape
        return Matrix(self, inputs, outputs, *self.pack(weight))


class Matrix(NamedTuple):
    """A packed matrix as a program holds it, and as it may be stored."""

    kind: Format
    inputs: int
    outputs: int
    stream: torch.Tensor
    """Bytes in the order in which a product reads them."""
    scales: torch.Tensor | None
    """float32 (outputs,), where the format has one an output."""
