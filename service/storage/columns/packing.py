"""Packing: the columns of a block, made from its rows."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from msgspec import structs
from sqlalchemy import Connection, Select, select, update

from service.storage.columns.blocks import INTEGERS, NAMES, RELATIVE, TEXTS, Block
from service.storage.columns.packed_column import PackedColumn, integers, pack_integers, pack_texts
from service.storage.tables import record_block, record_column, request_record

_FETCH_ROWS = 512
_ROW = request_record.c
_FIELDS = [_ROW[name] for name in ("accepted_ns", *sorted(NAMES))]


def pack_rows(connection: Connection, block: Block) -> tuple[int, dict[str, PackedColumn]]:
    """Number of rows of a block, and its columns, packed from the rows."""
    rows: list[Any] = []
    for part in connection.execute(_rows_of(block)).partitions(_FETCH_ROWS):
        rows.extend(part)
        _yield_lock()
    fields = list(zip(*rows, strict=True))
    if not fields:
        return 0, {}
    by_name: dict[str, Sequence[Any]] = {
        field.name: values for field, values in zip(_FIELDS, fields, strict=True)
    }
    accepted_ns = np.array(by_name["accepted_ns"], dtype=np.int64)
    columns: dict[str, PackedColumn] = {
        name: pack_texts([text or "" for text in by_name[name]]) for name in TEXTS
    }
    for name in INTEGERS:
        columns[name] = pack_integers(*integers(by_name[name]))
        _yield_lock()
    for name in RELATIVE:
        values, known = integers(by_name[name])
        columns[name] = pack_integers((values - accepted_ns) * known, known)
        _yield_lock()
    return len(accepted_ns), columns


def _yield_lock() -> None:
    """Let the event loop have the interpreter: it would wait up to 5 ms at each of its turns."""
    time.sleep(0)


def _rows_of(block: Block) -> Select[Any]:
    # By the index on time: blocks have none of their own.
    return select(*_FIELDS).where(
        _ROW.accepted_at_ns.between(block.first_at_ns, block.last_at_ns),
        _ROW.block_id == block.id,
    )


def store(
    connection: Connection, block: Block, row_count: int, columns: dict[str, PackedColumn]
) -> None:
    """Store the columns of a block, which have *row_count* values."""
    rows = [
        {"name": name, "block_id": block.id, **structs.asdict(column)}
        for name, column in columns.items()
    ]
    connection.execute(record_column.insert(), rows)
    connection.execute(
        update(record_block)
        .where(record_block.c.id == block.id)
        .values(packed=True, row_count=row_count)
    )
