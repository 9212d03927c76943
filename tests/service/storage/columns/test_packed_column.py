"""Packed columns give back exactly what they were made of, in few bytes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.storage.columns.packed_column import (
    PackedColumn,
    integers,
    pack_integers,
    pack_texts,
)


def unpacked(packed: PackedColumn, length: int) -> list[int | None]:
    values, known = np.full(length, 7, dtype=np.int64), np.full(length, 1, dtype=bool)
    packed.unpack_into(values, known)
    return [int(value) if there else None for value, there in zip(values, known, strict=True)]


@given(st.lists(st.none() | st.integers(-(2**62), 2**62) | st.integers(0, 300), min_size=1))
def test_integers_come_back(column: list[int | None]) -> None:
    """Every value is exact and unknown stays unknown, whatever the range."""
    assert unpacked(pack_integers(*integers(column)), len(column)) == column


@given(st.lists(st.text(max_size=5), min_size=1))
def test_texts_come_back(column: list[str]) -> None:
    """Values are indices of the labels."""
    packed = pack_texts(column)

    assert packed.labels is not None
    numbers = unpacked(packed, len(column))
    assert [packed.labels[number] for number in numbers if number is not None] == column


@pytest.mark.parametrize(
    ("column", "size_bytes"),
    [
        ([None] * 100, 0),
        ([5] * 100, 0),
        ([5, None] * 50, 100),
        (list(range(10**12, 10**12 + 100)), 100),
        ([0, 254] * 50, 100),
        ([0, 255] * 50, 200),
        ([0, 2**32] * 50, 800),
    ],
)
def test_a_code_is_as_wide_as_it_needs(column: list[int | None], size_bytes: int) -> None:
    """Constant and unknown columns take nothing, others as many bytes as their range needs."""
    packed = pack_integers(*integers(column))

    assert len(packed.codes) == size_bytes
    assert unpacked(packed, 100) == column
