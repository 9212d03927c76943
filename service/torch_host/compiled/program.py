"""A model's forward pass as a list of kernels over fixed buffers, with nothing between them.

A program is built once per model. It advances a *batch*: segments of consecutive tokens, each in a
slot, laid out one after the other. One segment of many tokens is a prefill, many segments of one
token are a decode step, and nothing in a program knows the difference, so a sequence's state does
not depend on how its tokens were divided into steps, nor on its neighbours in them.
"""

from collections.abc import Callable, Iterable

import numpy as np
import torch

from service.torch_host.compiled import batch
from service.torch_host.compiled.codegen.debug_mode import DEBUG, MEMORY, Region
from service.torch_host.compiled.codegen.thread_team import Instructions
from service.torch_host.compiled.formats.format import Format, Matrix
from service.torch_host.compiled.kernel import Buffer, Kernel, Operand
from service.torch_host.compiled.memory import ALIGNMENT, aligned, aligned_bytes


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
        """Format of keys and values, and of operands of matrix products."""
        self.matrices = kind if matrices is None else matrices
        """Format of the matrices that may be quantized."""
        self.embeddings = self.matrices.embeddings or self.matrices
        """Format of embeddings and of the matrix of the logits: never fewer than 8 bits."""
        self.packed: list[Matrix] = []
        """All matrices, in the order in which they were packed."""
        self._stored = None if stored is None else iter(stored)
        self.max_tokens = max_tokens
        self.threads = threads
        self.head = np.zeros(batch.HEAD_FIELDS, dtype=np.int64)
        self._buffers: dict[tuple[str, int, int, int], tuple[Buffer, torch.Tensor]] = {}
        self._held: list[object] = []
        self._kernels: list[Kernel] = []
        self._addresses: list[int] = []
        self._reached: list[Callable[[], Iterable[torch.Tensor | np.ndarray]]] = []
        self._operands: list[list[int]] = []
        self._scratch_bytes = 0
        self.weights_bytes = 0
        """Bytes of all held tensors."""
        self._instructions: Instructions | None = None

    def __repr__(self) -> str:
        """Show the sizes."""
        return f"<Program of {len(self._kernels)} kernels, {self.workspace_bytes} bytes>"

    def buffer(
        self, name: str, width: int, *, element_bytes: int = 4, rows_per_token: int = 1
    ) -> Buffer:
        """Buffer with rows for each token; the same name and shape give the same buffer."""
        key = (name, width, element_bytes, rows_per_token)
        if key not in self._buffers:
            stride = aligned(width * element_bytes)
            storage = aligned_bytes(stride * self.max_tokens * rows_per_token)
            self._buffers[key] = Buffer(storage.data_ptr(), stride, width), storage
        return self._buffers[key][0]

    def operand_buffer(self, name: str, width: int, *, rows_per_token: int = 1) -> Buffer:
        """Buffer for an operand of a matrix product."""
        return self.buffer(
            name, width, element_bytes=self.kind.bytes, rows_per_token=rows_per_token
        )

    def scratch(self, size_bytes: int) -> None:
        """Reserve at least this much scratch memory for every thread."""
        self._scratch_bytes = max(self._scratch_bytes, aligned(size_bytes))

    def hold(self, tensor: torch.Tensor) -> int:
        """Keep a contiguous tensor alive as long as the program; return its address.

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

    def add(self, kernel: Kernel, **operands: Operand) -> None:
        """Append an instruction with the kernel's operands by name.

        A buffer stands for its address and, where the kernel has an operand `NAME_stride`, its
        stride; None for 0; a float operand takes a number.
        Raises TypeError for operands that are missing, unknown or of another type.
        """
        self._kernels.append(kernel)
        self._addresses.append(kernel.address)
        self._operands.append([self.head.ctypes.data, *kernel.arrange(operands)])

    def finish(self) -> None:
        """Complete the program; no more instructions may be added."""
        scratch = aligned_bytes(max(self._scratch_bytes, ALIGNMENT) * self.threads)
        self._held.append(scratch)
        self.head[batch.SCRATCH] = scratch.data_ptr()
        self.head[batch.SCRATCH_BYTES] = max(self._scratch_bytes, ALIGNMENT)
        if not DEBUG:
            self._instructions = Instructions(self._addresses, self._operands, threads=self.threads)

    def run(self, *, alone: bool = False, result: torch.Tensor | None = None) -> None:
        """Advance the batch that the head describes, `alone` on this thread.

        `result` is the memory for logits that the head points to.
        """
        if DEBUG:
            self._interpret([] if result is None else [result])
        else:
            assert self._instructions is not None
            self._instructions.run(alone=alone)

    def reaches(self, memory: Callable[[], Iterable[torch.Tensor | np.ndarray]]) -> None:
        """Name memory beside the program's own that instructions may touch, for debug mode."""
        if DEBUG:  # what refers to the program would otherwise keep its weights
            self._reached.append(memory)

    def _interpret(self, results: list[torch.Tensor]) -> None:
        tensors = results + [storage for _, storage in self._buffers.values()]
        tensors += [held for held in self._held if isinstance(held, torch.Tensor)]
        memory = [part for reached in self._reached for part in reached()]
        MEMORY.set(
            Region(part.data_ptr(), part.nbytes)
            if isinstance(part, torch.Tensor)
            else Region(part.ctypes.data, part.nbytes)
            for part in (*tensors, *memory, self.head)
        )
        for kernel, operands in zip(self._kernels, self._operands, strict=True):
            kernel.interpret(operands, self.threads)

    @property
    def workspace_bytes(self) -> int:
        """Bytes of all buffers; the system provides those that a batch has touched."""
        buffers = sum(storage.nbytes for _, storage in self._buffers.values())
        return buffers + self._scratch_bytes * self.threads
