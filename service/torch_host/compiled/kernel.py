"""A kernel: a function that numba compiles, whose parameters declare its operands."""

import inspect
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Annotated, Any, Final, NamedTuple, SupportsInt

import numba
import numpy as np
from numba import cfunc, types

from service.torch_host.compiled.codegen.cpu_features import LLVM_VERSION
from service.torch_host.compiled.codegen.debug_mode import DEBUG, MEMORY, Address
from service.torch_host.compiled.codegen.scalars import FAST
from service.torch_host.compiled.uncompilable import Uncompilable

#: Parameters of every kernel before its operands.
_CONTEXT: Final = ("batch_head", "thread", "threads")


class Buffer(NamedTuple):
    """Activations of a batch: one row per token."""

    address: int
    stride: int
    """Bytes from one token to the next."""
    width: int

    def columns(self, first: int, width: int, *, element_bytes: int = 4) -> "Buffer":
        """A part of each row."""
        return Buffer(self.address + first * element_bytes, self.stride, width)


#: Annotates an operand that holds the bits of a float32.
Float32 = Annotated[Any, "float32"]

Operand = Buffer | SupportsInt | None


class Kernel:
    """A function of (batch_head, thread, threads, operands…), compiled when it is first needed.

    `batch_head` is the address of the batch's head. All operands are int64; one that is annotated
    as Float32 holds the bits of a float32.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self.__doc__ = function.__doc__
        self.name = function.__name__.removeprefix("_")
        parameters = inspect.signature(function).parameters
        assert tuple(parameters)[: len(_CONTEXT)] == _CONTEXT, self.name
        self.operands = tuple(parameters)[len(_CONTEXT) :]
        self._floats = {name for name in self.operands if parameters[name].annotation == Float32}

    @cached_property
    def _compiled(self) -> Any:  # noqa: ANN401 - numba's
        count = len(_CONTEXT) + len(self.operands)
        signature = types.void(*[types.int64] * count)
        compiler = cfunc(signature, cache=True, fastmath=FAST, error_model="numpy")
        try:
            return compiler(self._function)
        except Exception as error:  # numba, llvmlite and LLVM have errors of their own
            reason = str(error).strip().partition("\n")[0]
            raise Uncompilable(
                f"numba {numba.__version__} with LLVM {LLVM_VERSION} does not compile the kernel "
                f"{self.name!r}: {reason}"
            ) from error

    @property
    def address(self) -> int:
        """Address of the machine code, 0 in debug mode.

        Raises Uncompilable if numba does not compile it.
        """
        if DEBUG:
            return 0
        return int(self._compiled.address)

    def interpret(self, operands: Sequence[int], threads: int) -> None:
        """Run as Python, one thread after the other, in debug mode; operands as `arrange` has them.

        Raises IndexError with the names of kernel and operand for an access out of bounds.
        """
        MEMORY.kernel = self.name
        names = ("batch_head", *self.operands)
        head, *rest = map(Address.of, operands, names)
        with np.errstate(all="ignore"):
            for thread in range(threads):
                self._function(head, thread, threads, *rest)

    def arrange(self, given: Mapping[str, Operand]) -> list[int]:
        """Operands in the kernel's order. Raises TypeError if they are not those of the kernel."""
        values: dict[str, int] = {}
        for name, value in given.items():
            for operand, number in self._expanded(name, value):
                if operand not in self.operands or operand in values:
                    raise TypeError(f"{self.name} has no operand {operand!r}, or has it twice")
                values[operand] = number
        missing = [name for name in self.operands if name not in values]
        if missing:
            raise TypeError(f"{self.name} lacks the operands {', '.join(missing)}")
        return [values[name] for name in self.operands]

    def _expanded(self, name: str, value: Operand) -> Iterator[tuple[str, int]]:
        if name in self._floats:
            if value is None or isinstance(value, Buffer):
                raise TypeError(f"{self.name}: {name} must be a number, not {value!r}")
            yield name, _bits(float(value))  # type: ignore[arg-type]
        elif isinstance(value, Buffer) or value is None:
            yield name, 0 if value is None else value.address
            if f"{name}_stride" in self.operands:
                yield f"{name}_stride", 0 if value is None else value.stride
        elif isinstance(value, float):
            raise TypeError(f"{self.name}: {name} must be an integer, not {value!r}")
        else:
            yield name, int(value)


def _bits(value: float) -> int:
    """The bits of a float32."""
    return int(struct.unpack("<i", struct.pack("<f", value))[0])
