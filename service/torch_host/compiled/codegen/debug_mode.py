"""Debug mode (`TRIPTYCH_KERNELS=debug`): kernels run as Python and check each access to memory.

Numbers that are added to an operand, or loaded from memory, remember which operand they came from.
An access must lie in the memory that this operand points to; it may not reach what lies beside it.
"""

import ctypes
import os
from bisect import bisect_right
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple

import numba
import numpy as np

DEBUG: Final = os.environ.get("TRIPTYCH_KERNELS") == "debug"
if DEBUG:
    # Read by numba's decorators, so before the first kernel is imported.
    numba.config.DISABLE_JIT = True  # type: ignore[attr-defined]

Array = np.ndarray[Any, np.dtype[Any]]


class Region(NamedTuple):
    """A range of memory that kernels may touch."""

    begin: int
    size_bytes: int


class Address(int):
    """A number in a kernel, and its origin."""

    origin: str
    base: int
    """Value of the operand before anything was added."""

    @classmethod
    def of(cls, value: int, origin: str, base: int | None = None) -> "Address":
        """A number with a named origin."""
        address = cls(value)
        address.origin, address.base = origin, int(value) if base is None else base
        return address

    def __add__(self, other: int) -> "Address":
        """Keep the origin of the larger: sizes are added to addresses."""
        parent = other if isinstance(other, Address) and int(other) > int(self) else self
        return Address.of(int(self) + int(other), parent.origin, parent.base)

    __radd__ = __add__

    def __sub__(self, other: int) -> "Address":
        """Keep the origin."""
        return Address.of(int(self) - int(other), self.origin, self.base)


class Memory:
    """The memory that an instruction may touch."""

    def __init__(self) -> None:
        self.kernel = ""
        self._begins: list[int] = []
        self._regions: list[Region] = []

    def set(self, regions: Iterable[Region]) -> None:
        """Replace all regions."""
        self._regions = sorted(region for region in regions if region.size_bytes)
        self._begins = [region.begin for region in self._regions]

    def array(self, address: int, dtype: type[np.generic], count: int) -> Array:
        """`count` elements at an address. Raises IndexError if they are not its operand's."""
        size = np.dtype(dtype).itemsize
        origin, base = getattr(address, "origin", "?"), getattr(address, "base", int(address))
        index = bisect_right(self._begins, base) - 1
        begin, size_bytes = self._regions[index] if index >= 0 else Region(0, 0)
        first = int(address) - begin
        if not (0 <= base - begin < size_bytes and 0 <= first <= size_bytes - count * size):
            raise IndexError(
                f"{self.kernel}: {count * size} bytes at {origin} {int(address) - base:+d} are not "
                f"within its memory, {size_bytes} bytes from {origin} {begin - base:+d} on"
            )
        raw = (ctypes.c_uint8 * (count * size)).from_address(int(address))
        found: Array = np.frombuffer(memoryview(raw), dtype=dtype)
        return found


MEMORY: Final = Memory()


class View:
    """Typed memory at an address, element by element."""

    def __init__(self, address: int, dtype: type[np.generic]) -> None:
        self._address = address
        self._dtype = dtype
        self._size = np.dtype(dtype).itemsize

    def __getitem__(self, index: int) -> Any:  # noqa: ANN401 - a NumPy scalar, or an address
        """Load."""
        value = MEMORY.array(self._address + int(index) * self._size, self._dtype, 1)[0]
        if self._dtype is np.int64:
            return Address.of(int(value), f"{getattr(self._address, 'origin', '?')}[{index}]")
        return value

    def __setitem__(self, index: int, value: Any) -> None:  # noqa: ANN401
        """Store."""
        MEMORY.array(self._address + int(index) * self._size, self._dtype, 1)[0] = value


def in_python(replacement: Callable[..., Any]) -> Callable[[Any], Any]:
    """Take a Python function for an intrinsic in debug mode."""
    return lambda intrinsic: replacement if DEBUG else intrinsic
