"""Packed columns: one field of many records as small integers.

A code is the value's distance from the smallest one, plus 1, in as few bytes as the largest needs;
0 is unknown. Text fields are numbered by the order of their labels.
"""

from collections.abc import Sequence

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

Integers = NDArray[np.int64]
Flags = NDArray[np.bool_]


class PackedColumn(Struct, frozen=True):
    """The values of one field, in the order of the rows."""

    base: int | None
    """Smallest value; None if all are unknown."""
    labels: list[str] | None
    """Texts that the values are indices of; None for a field of integers."""
    codes: bytes
    """Empty if all values are `base`, or all unknown."""

    def unpack_into(self, values: Integers, known: Flags) -> None:
        """Write the values, 0 where unknown, and which are known."""
        known[:] = self.base is not None
        values[:] = self.base or 0
        if self.codes and self.base is not None:
            width_bytes = len(self.codes) // len(values)
            codes = np.frombuffer(self.codes, dtype=f"<u{width_bytes}")
            np.not_equal(codes, 0, out=known)
            values += codes.astype(np.int64)
            values -= 1
            values *= known


def pack_integers(values: Integers, known: Flags) -> PackedColumn:
    """Pack integers."""
    if not known.any():
        return PackedColumn(None, None, b"")
    base = int(values[known].min())
    span = int(values[known].max()) - base
    if span == 0 and known.all():
        return PackedColumn(base, None, b"")
    width_bytes = next((width for width in (1, 2, 4) if span + 1 < 1 << (8 * width)), 8)
    codes = (values - base + 1) * known
    return PackedColumn(base, None, codes.astype(f"<u{width_bytes}").tobytes())


def pack_texts(texts: Sequence[str]) -> PackedColumn:
    """Pack texts, none of them unknown."""
    labels = sorted(set(texts))
    number = {label: index for index, label in enumerate(labels)}
    values = np.array([number[each] for each in texts], dtype=np.int64)
    packed = pack_integers(values, np.ones(len(values), dtype=bool))
    return PackedColumn(packed.base, labels, packed.codes)


def integers(column: Sequence[int | None]) -> tuple[Integers, Flags]:
    """Values of a database column, 0 where unknown, and which are known."""
    known = np.array([value is not None for value in column], dtype=bool)
    return np.array([value or 0 for value in column], dtype=np.int64), known
