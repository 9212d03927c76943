"""Columns of many blocks of records: as they are stored, or packed from the rows for the moment."""

from collections.abc import Callable, Iterator

import numpy as np
from sqlalchemy import Connection, select

from service.storage.columns.blocks import Block
from service.storage.columns.packed_column import Flags, Integers, PackedColumn
from service.storage.columns.packing import pack_rows
from service.storage.tables import record_column

_COLUMN = record_column.c


class BlockColumns:
    """The rows of some blocks, one column at a time: a million values take 9 MB."""

    def __init__(
        self, connection: Connection, blocks: list[Block], check: Callable[[], None]
    ) -> None:
        """*check* is called before each unit of work, and raises to end it."""
        self._connection = connection
        self._check = check
        self._lengths: dict[int, int] = {}
        self._unstored: dict[int, dict[str, PackedColumn]] = {}
        for block in blocks:
            check()
            self._lengths[block.id] = block.row_count
            if not block.packed:
                self._lengths[block.id], self._unstored[block.id] = pack_rows(connection, block)
        self.row_count = sum(self._lengths.values())

    def integers(self, name: str) -> tuple[Integers, Flags]:
        """Values of a field, 0 where unknown, and which are known."""
        values = np.zeros(self.row_count, dtype=np.int64)
        known = np.ones(self.row_count, dtype=bool)
        for part, column in self._parts(name):
            column.unpack_into(values[part], known[part])
        return values, known

    def texts(self, name: str) -> tuple[Integers, list[str]]:
        """A text field as indices of its labels, and the labels."""
        values = np.zeros(self.row_count, dtype=np.int64)
        known = np.ones(self.row_count, dtype=bool)
        numbers: dict[str, int] = {}
        for part, column in self._parts(name):
            column.unpack_into(values[part], known[part])
            labels = [numbers.setdefault(each, len(numbers)) for each in column.labels or ()]
            values[part] = np.array(labels, dtype=np.int64)[values[part]]
        return values, list(numbers)

    def _parts(self, name: str) -> Iterator[tuple[slice, PackedColumn]]:
        """Each block's rows and its column."""
        stored = self._stored(name)
        begin = 0
        for block, length in self._lengths.items():
            if length:
                column = self._unstored[block][name] if block in self._unstored else next(stored)
                yield slice(begin, begin + length), column
                begin += length

    def _stored(self, name: str) -> Iterator[PackedColumn]:
        self._check()
        wanted = self._lengths.keys() - self._unstored.keys()
        if not wanted:
            return
        found = self._connection.execute(
            select(_COLUMN.block_id, _COLUMN.base, _COLUMN.labels, _COLUMN.codes)
            .where(_COLUMN.name == name, _COLUMN.block_id.between(min(wanted), max(wanted)))
            .order_by(_COLUMN.block_id)
            .execution_options(stream_results=True)
        )
        for row in found:
            if row.block_id in wanted:
                yield PackedColumn(row.base, row.labels, row.codes)
