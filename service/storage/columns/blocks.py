"""Blocks: records in the order they were inserted, to be packed once all of them are final.

A packed block repeats what its rows say and is dropped when one of them is written again, so that
summaries read columns where they can and rows where they must.
"""

from collections.abc import Callable, Sequence

from msgspec import Struct
from sqlalchemy import Connection, RowMapping, Table, case, delete, select, update
from sqlalchemy.dialects import postgresql, sqlite

from service.core.events import StateBytes
from service.core.metrics import FORMULAS
from service.core.record import RequestRecord
from service.core.summary import SUMS
from service.storage.tables import IS_OPEN, record_block, record_column, request_record

BLOCK_ROWS = 8192

TEXTS = ("status", "endpoint", "requested_model", "energy_source")
"""Text fields; packed as "" where unknown."""
_STAMPS = tuple(
    sorted({name for one in FORMULAS.values() for name in one.inputs if name.endswith("_ns")})
)
#: Clock readings are kept relative to the request's acceptance; `load_ns` is a duration already.
RELATIVE = tuple(name for name in _STAMPS if name not in ("accepted_ns", "load_ns"))
INTEGERS = (
    "accepted_at_ns", "load_ns", "model_build_id", "cold", "verified", *SUMS,
    *StateBytes.__struct_fields__, "energy_uj",
)  # fmt: skip
NAMES = frozenset((*TEXTS, *RELATIVE, *INTEGERS))

_ROW = request_record.c
_BLOCK = record_block.c


class Block(Struct, frozen=True):
    """Rows with one `block_id`."""

    id: int
    first_at_ns: int
    last_at_ns: int
    row_count: int
    packed: bool

    @classmethod
    def of(cls, row: RowMapping) -> "Block":
        """From a row of `record_block`."""
        return cls(**{name: row[name] for name in cls.__struct_fields__})


class Placement(Struct, frozen=True):
    """The blocks of a batch of records, and what that makes of the block being filled."""

    block_ids: dict[str, int]
    current: int
    row_count: int


class Blocks:
    """Fills and packs the blocks of one database; for the one thread that writes."""

    def __init__(
        self, connection: Connection, insert: Callable[[Table], sqlite.Insert | postgresql.Insert]
    ) -> None:
        """Continue with the newest block, or the one after it if that is full."""
        self._upsert = _upsert(insert(record_block))
        stored = set(connection.scalars(select(record_column.c.name).distinct()))
        if stored and stored != NAMES:
            _unpack(connection, None)  # by a release that packed other fields
        newest = connection.execute(
            select(_BLOCK.id, _BLOCK.row_count).order_by(_BLOCK.id.desc()).limit(1)
        ).first()
        self._current: int = newest.id if newest else 0
        self._row_count: int = newest.row_count if newest else 0
        if self._row_count >= BLOCK_ROWS:
            self._current, self._row_count = self._current + 1, 0
        not_packed = select(_BLOCK.id).where(~_BLOCK.packed, _BLOCK.id < self._current)
        self._full = set(connection.scalars(not_packed))

    def place(self, connection: Connection, records: Sequence[RequestRecord]) -> Placement:
        """Assign new records to the block being filled; others stay where they are.

        Packed blocks with a row that is about to be replaced are unpacked.
        """
        ids = [record.request_id for record in records]
        found = connection.execute(
            select(_ROW.request_id, _ROW.block_id, _ROW.phase).where(_ROW.request_id.in_(ids))
        ).all()
        stored = {row.request_id: row.block_id for row in found}
        final = {row.request_id for row in found if row.phase == "final"}
        replaced = {
            stored[record.request_id]
            for record in records
            if record.phase == "final" and record.request_id in final
        }
        if replaced:
            _unpack(connection, replaced)
            self._full |= {block for block in replaced if block < self._current}
        block_ids = {each: stored.get(each, self._current) for each in ids}
        self._widen(connection, records, block_ids, stored)
        added = len(ids) - len(stored)
        return Placement(block_ids, self._current, self._row_count + added)

    def committed(self, placement: Placement) -> None:
        """Note that a batch is in the database."""
        self._row_count = placement.row_count
        self._rotate()

    def next_to_pack(self, connection: Connection) -> Block | None:
        """A full block all of whose rows are final; None if there is none."""
        if not self._full:
            return None
        opened = set(connection.scalars(select(_ROW.block_id).where(IS_OPEN).distinct()))
        ready = min(self._full - opened, default=None)
        if ready is None:
            return None
        query = select(record_block).where(_BLOCK.id == ready)
        block = Block.of(connection.execute(query).mappings().one())
        if block.packed:  # its unpacking was rolled back
            self._full.discard(ready)
            return None
        return block

    def packed(self, block: Block) -> None:
        """Note that a block's columns are in the database."""
        self._full.discard(block.id)

    def _rotate(self) -> None:
        if self._row_count >= BLOCK_ROWS:
            self._full.add(self._current)
            self._current, self._row_count = self._current + 1, 0

    def _widen(
        self,
        connection: Connection,
        records: Sequence[RequestRecord],
        block_ids: dict[str, int],
        stored: dict[str, int],
    ) -> None:
        """Extend the bounds and counts of the blocks that these records are in."""
        of_block: dict[int, list[RequestRecord]] = {}
        for record in records:
            of_block.setdefault(block_ids[record.request_id], []).append(record)
        connection.execute(
            self._upsert,
            [
                {
                    "id": block,
                    "first_at_ns": min(record.accepted_at_ns for record in members),
                    "last_at_ns": max(record.accepted_at_ns for record in members),
                    "row_count": sum(record.request_id not in stored for record in members),
                    "packed": False,
                }
                for block, members in of_block.items()
            ],
        )


def overlapping(connection: Connection, since_ns: int | None, until_ns: int | None) -> list[Block]:
    """Blocks that may have rows accepted in a span of time, oldest first."""
    query = select(record_block).order_by(_BLOCK.id)
    if since_ns is not None:
        query = query.where(_BLOCK.last_at_ns >= since_ns)
    if until_ns is not None:
        query = query.where(_BLOCK.first_at_ns < until_ns)
    return [Block.of(row) for row in connection.execute(query).mappings()]


def _unpack(connection: Connection, block_ids: set[int] | None) -> None:
    """Drop the columns of some blocks, or of all."""
    packed, columns = update(record_block).values(packed=False), delete(record_column)
    if block_ids is not None:
        packed = packed.where(_BLOCK.id.in_(block_ids))
        columns = columns.where(record_column.c.block_id.in_(block_ids))
    connection.execute(packed)
    connection.execute(columns)


def _upsert(
    statement: sqlite.Insert | postgresql.Insert,
) -> sqlite.Insert | postgresql.Insert:
    new = statement.excluded
    return statement.on_conflict_do_update(
        index_elements=[_BLOCK.id],
        set_={
            "first_at_ns": case(
                (new.first_at_ns < _BLOCK.first_at_ns, new.first_at_ns), else_=_BLOCK.first_at_ns
            ),
            "last_at_ns": case(
                (new.last_at_ns > _BLOCK.last_at_ns, new.last_at_ns), else_=_BLOCK.last_at_ns
            ),
            "row_count": _BLOCK.row_count + new.row_count,
        },
    )
