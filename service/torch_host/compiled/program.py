"""A model's forward pass as a list of kernels over fixed buffers, with nothing between them.

A program is built once a model. It advances a *batch*: segments of consecutive tokens, each of one
slot, laid out one after the other. One segment of many tokens is a prefill, many segments of one
token are a decode step, and nothing in a program knows the difference, so a sequence's state does
not depend on how its tokens were divided into steps, nor on its neighbours in them.
"""

import struct
from collections.abc import Callable, Iterable
from enum import IntEnum
from functools import cached_property
from typing import Any, Final, NamedTuple

import numba
import numpy as np
import torch
from numba import cfunc

from service.torch_host.compiled.codegen.cpu_features import LLVM_VERSION
from service.torch_host.compiled.codegen.scalars import FAST
from service.torch_host.compiled.codegen.thread_team import KERNEL, Instructions
from service.torch_host.compiled.formats.format import Format, Matrix
from service.torch_host.compiled.memory import ALIGNMENT, aligned, aligned_bytes
from service.torch_host.compiled.uncompilable import Uncompilable


class Field(IntEnum):
    """Where the head of a batch says what; all are int64, addresses where a name is plural."""

    TOKENS = 0
    SEGMENTS = 1
    TOKEN_IDS = 2
    POSITIONS = 3
    SEGMENT_OF_TOKENS = 4
    FIRST_TOKENS = 5
    """Of each segment; one more says where the last one ends."""
    ROWS = 6
    """Of each segment: its slot."""
    LOGITS_ROWS = 7
    LOGITS_TOKENS = 8
    LOGITS = 9
    LONG_ROPES = 10
    """Of each token: whether LongRoPE's long factors rotate it."""
    PREFILLING = 11
    BLOCKS = 12
    """Of queries: at most QUERY_TOKENS tokens of one segment."""
    BLOCK_FIRSTS = 13
    BLOCK_TOKENS = 14
    SPLITS = 15
    """Into how many parts the keys are divided, each for another thread."""
    SCRATCH = 16
    SCRATCH_BYTES = 17
    GROUPS = 18
    """From here on three fields for each group of attention layers: addresses of the segments'
    keys and values, their capacities in tokens, and the positions that were dropped before them."""


GROUP_FIELDS: Final = 3
HEAD_FIELDS: Final = 64


class Kernel:
    """A function of (operands, thread, threads), compiled when it is first needed."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self.__doc__ = function.__doc__

    @cached_property
    def _compiled(self) -> Any:  # noqa: ANN401 - numba's
        compiler = cfunc(KERNEL, cache=True, fastmath=FAST, error_model="numpy")
        try:
            return compiler(self._function)
        except Exception as error:  # numba, llvmlite and LLVM have errors of their own
            name = self._function.__name__.removeprefix("_")
            reason = str(error).strip().partition("\n")[0]
            raise Uncompilable(
                f"numba {numba.__version__} with LLVM {LLVM_VERSION} does not compile the kernel "
                f"{name!r}: {reason}"
            ) from error

    @property
    def address(self) -> int:
        """Where its machine code is. Raises Uncompilable if numba does not compile it."""
        return int(self._compiled.address)


class Buffer(NamedTuple):
    """Activations of a batch: one row a token."""

    address: int
    stride: int
    """Bytes from one token to the next."""
    width: int

    def columns(self, first: int, width: int, *, element_bytes: int = 4) -> "Buffer":
        """A part of each row."""
        return Buffer(self.address + first * element_bytes, self.stride, width)


def bits(value: float) -> int:
    """A float32 as an operand."""
    return int(struct.unpack("<i", struct.pack("<f", value))[0])


class Program:
    """Collects buffers and instructions, then runs them."""

    def __init__(
        self,
        kind: Format,
        *,
        max_tokens: int,
        threads: int,
        matrices: Format | None = None,
        stored: Iterable[Matrix] | None = None,
    ) -> None:
        self.kind = kind
        """Of keys and values, and of what enters a matrix product."""
        self.matrices = kind if matrices is None else matrices
        """Of the matrices that bear another kind."""
        self.embeddings = self.matrices.embeddings or self.matrices
        """Of the tokens' embeddings and of what logits are made with: never fewer than 8 bits."""
        self.packed: list[Matrix] = []
        """All matrices, in the order in which they were packed."""
        self._stored = None if stored is None else iter(stored)
        self.max_tokens = max_tokens
        self.threads = threads
        self.head = np.zeros(HEAD_FIELDS, dtype=np.int64)
        self._buffers: dict[tuple[str, int, int, int], tuple[Buffer, torch.Tensor]] = {}
        self._held: list[object] = []
        self._kernels: list[int] = []
        self._operands: list[list[int]] = []
        self._scratch_bytes = 0
        self.weights_bytes = 0
        """Of everything that is held."""
        self._instructions: Instructions | None = None

    def __repr__(self) -> str:
        """Show the sizes."""
        return f"<Program of {len(self._kernels)} kernels, {self.workspace_bytes} bytes>"

    def buffer(
        self, name: str, width: int, *, element_bytes: int = 4, rows_per_token: int = 1
    ) -> Buffer:
        """Room for rows of each token; the same room each time it is asked for by the same name."""
        key = (name, width, element_bytes, rows_per_token)
        if key not in self._buffers:
            stride = aligned(width * element_bytes)
            storage = aligned_bytes(stride * self.max_tokens * rows_per_token)
            self._buffers[key] = Buffer(storage.data_ptr(), stride, width), storage
        return self._buffers[key][0]

    def operand_buffer(self, name: str, width: int, *, rows_per_token: int = 1) -> Buffer:
        """Room for what enters a matrix product."""
        return self.buffer(
            name, width, element_bytes=self.kind.bytes, rows_per_token=rows_per_token
        )

    def scratch(self, size_bytes: int) -> None:
        """See to it that every thread has this much room of its own."""
        self._scratch_bytes = max(self._scratch_bytes, aligned(size_bytes))

    def hold(self, tensor: torch.Tensor) -> int:
        """Keep a contiguous tensor as long as the program; its address.

        Raises ValueError if it has no values: it was left out of a file that holds matrices packed.
        """
        if tensor.is_meta:
            raise ValueError(f"values of shape {tuple(tensor.shape)} were not stored")
        assert tensor.is_contiguous()
        self._held.append(tensor)
        self.weights_bytes += tensor.nbytes
        return tensor.data_ptr()

    def following(self) -> Matrix | None:
        """The next of the matrices that were packed before; None if there were none."""
        return None if self._stored is None else next(self._stored)

    def keep(self, matrix: Matrix) -> tuple[int, int]:
        """Hold a matrix; addresses of its stream and of its scales, 0 if it has none."""
        self.packed.append(matrix)
        scales = 0 if matrix.scales is None else self.hold(matrix.scales)
        return self.hold(matrix.stream), scales

    def vector(self, values: torch.Tensor | None) -> int:
        """Keep values as float32; their address, 0 for None."""
        if values is None:
            return 0
        return self.hold(values.detach().float().flatten().contiguous().clone())

    def add(self, kernel: Kernel, *operands: int) -> None:
        """Append an instruction; a kernel finds the batch's head before its operands."""
        self._kernels.append(kernel.address)
        self._operands.append([self.head.ctypes.data, *(int(operand) for operand in operands)])

    def finish(self) -> None:
        """No more instructions come."""
        scratch = aligned_bytes(max(self._scratch_bytes, ALIGNMENT) * self.threads)
        self._held.append(scratch)
        self.head[Field.SCRATCH] = scratch.data_ptr()
        self.head[Field.SCRATCH_BYTES] = max(self._scratch_bytes, ALIGNMENT)
        self._instructions = Instructions(self._kernels, self._operands, threads=self.threads)

    def run(self, *, alone: bool = False) -> None:
        """Advance the batch that the head describes, `alone` on this thread."""
        assert self._instructions is not None
        self._instructions.run(alone=alone)

    @property
    def workspace_bytes(self) -> int:
        """Bytes of all buffers; the system provides those that a batch has touched."""
        buffers = sum(storage.nbytes for _, storage in self._buffers.values())
        return buffers + self._scratch_bytes * self.threads
