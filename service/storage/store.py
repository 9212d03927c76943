"""Records in a SQL database: SQLite embedded by default, PostgreSQL by its URL."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from sqlalchemy import (
    URL,
    Connection,
    Dialect,
    Select,
    exists,
    or_,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from service.core.errors import QueryCancelled
from service.core.ports import RecordFilter, RecordPage
from service.core.record import RequestRecord
from service.core.summary import RecordSummary, served_id, summarize
from service.storage import cursor as cursors
from service.storage import rows
from service.storage.columns.blocks import Blocks, overlapping
from service.storage.conditions import KEYS, after, allowed_builds, before, matching
from service.storage.contents import has_content, replace_contents
from service.storage.cursor import Position
from service.storage.database import INSERT, open_database, reading, writing
from service.storage.rows import Served
from service.storage.tables import IS_OPEN, model_build, request_content, request_record

_BATCH_ROWS = 1000
_READ = select(
    *rows.RECORD_COLUMNS, request_content.c.prompt, request_content.c.completion
).select_from(request_record.outerjoin(request_content))


class SqlRecordStore:
    """Records in one database; safe to use from several threads.

    Every method raises StoreUnavailable when the database cannot be reached, is full or stays
    locked; nothing is written then.
    """

    def __init__(self, url: str | URL) -> None:
        """Open the database at an SQLAlchemy URL and migrate its schema."""
        self._engine = open_database(url)
        self._upsert = _upsert(self._engine.dialect)
        self._build_ids: dict[Served, int] = {}
        self._builds: dict[int, Served] = {}
        with writing(self._engine) as connection:
            kept = select(exists(request_content.select()))
            self._keeps_contents: bool = connection.scalar(kept) or False
            self._blocks = Blocks(connection, INSERT[self._engine.dialect.name])

    def __repr__(self) -> str:
        url = self._engine.url.render_as_string(hide_password=True)
        return f"<SqlRecordStore {url} [{len(self._builds)} builds known]>"

    def write(self, records: Sequence[RequestRecord]) -> None:
        """Insert or replace by `request_id`, all in one transaction; a `final` record stays."""
        if not records:
            return
        # Known to this store only once committed: a rolled-back id must not be used again.
        added: dict[Served, int] = {}
        latest = _latest(records)
        contents = self._keeps_contents or any(map(has_content, latest))
        with writing(self._engine) as connection:
            placement = self._blocks.place(connection, latest)
            block_ids = placement.block_ids
            connection.execute(
                self._upsert,
                [
                    rows.to_row(
                        one, self._build_id(connection, one, added), block_ids[one.request_id]
                    )
                    for one in latest
                ],
            )
            if contents:
                replace_contents(connection, latest)
        self._blocks.committed(placement)
        self._build_ids |= added
        self._keeps_contents = contents

    def get(self, request_id: str) -> RequestRecord | None:
        """Read a record; None if there is none with this id."""
        found = self._read(_READ.where(request_record.c.request_id == request_id))
        return found[0] if found else None

    def page(self, where: RecordFilter, *, limit: int, cursor: str | None) -> RecordPage:
        """Read a page, newest first. Raises InvalidRequest for a cursor that no page returned."""
        query = _READ.where(*matching(where))
        if cursor is not None:
            query = query.where(before(cursors.decode(cursor)))
        # One more than asked for tells whether there is a next page.
        found = self._read(query.order_by(*(key.desc() for key in KEYS)).limit(limit + 1))
        return cursors.page(found, limit)

    def iterate(self, where: RecordFilter) -> Iterator[RequestRecord]:
        """Read matching records, oldest first, in short reads that hold no transaction open."""
        query = _READ.where(*matching(where)).order_by(*KEYS).limit(_BATCH_ROWS)
        batch = self._read(query)
        while batch:
            yield from batch
            batch = self._read(query.where(after(Position.of(batch[-1]))))

    def summary(
        self, where: RecordFilter, *, window_ns: int | None, cancelled: Callable[[], bool]
    ) -> RecordSummary:
        """Summarize matching records from their columns; a comparison's few, from their rows.

        Those of a route, and those with an error, have no column: from their rows, too.
        """

        def check() -> None:
            if cancelled():
                raise QueryCancelled("the summary was cancelled")

        if where.comparison_id is not None or where.route is not None or where.with_error:
            return summarize(_checked(self.iterate(where), check), window_ns=window_ns)
        # NumPy takes a tenth of a second to import and is needed for nothing else here.
        from service.storage.columns.block_columns import BlockColumns
        from service.storage.columns.column_summary import summarize_columns

        with reading(self._engine) as connection:
            everyone = {
                row["id"]: rows.to_served(row)
                for row in connection.execute(select(model_build)).mappings()
            }
            return summarize_columns(
                BlockColumns(
                    connection, overlapping(connection, where.since_ns, where.until_ns), check
                ),
                where,
                window_ns=window_ns,
                models={key: served_id(who.model, who.variant) for key, who in everyone.items()},
                builds=allowed_builds(where, everyone),
            )

    def compact(self) -> bool:
        """Pack the rows of one full block into columns."""
        with reading(self._engine) as connection:
            block = self._blocks.next_to_pack(connection)
        if block is None:
            return False
        from service.storage.columns import packing

        with reading(self._engine) as connection:
            row_count, columns = packing.pack_rows(connection, block)
        with writing(self._engine) as connection:
            packing.store(connection, block, row_count, columns)
        self._blocks.packed(block)
        return True

    def interrupt_orphans(self) -> int:
        """Turn rows that never became final into `interrupted`; return how many there were."""
        interrupted = (
            update(request_record).where(IS_OPEN).values(phase="final", status="interrupted")
        )
        with writing(self._engine) as connection:
            return connection.execute(interrupted).rowcount

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    def _read(self, query: Select[Any]) -> list[RequestRecord]:
        with reading(self._engine) as connection:
            found = connection.execute(query).mappings().all()
            return [
                rows.to_record(row, self._served(connection, row["model_build_id"]))
                for row in found
            ]

    def _build_id(
        self, connection: Connection, record: RequestRecord, added: dict[Served, int]
    ) -> int | None:
        """Row id of the record's build, inserted if it is new."""
        who = rows.served(record)
        if who is None:
            return None
        known = self._build_ids.get(who) or added.get(who)
        if known is None:
            known = added[who] = self._insert_build(connection, who)
        return known

    def _insert_build(self, connection: Connection, who: Served) -> int:
        values = rows.to_build_row(who)
        connection.execute(
            INSERT[self._engine.dialect.name](model_build).on_conflict_do_nothing().values(values)
        )
        of_content = model_build.c.content_sha256 == values["content_sha256"]
        found: int = connection.execute(select(model_build.c.id).where(of_content)).scalar_one()
        return found

    def _served(self, connection: Connection, build_id: int | None) -> Served | None:
        if build_id is None:
            return None
        who = self._builds.get(build_id)
        if who is None:
            row = connection.execute(select(model_build).where(model_build.c.id == build_id))
            who = self._builds[build_id] = rows.to_served(row.mappings().one())
        return who


def _upsert(dialect: Dialect) -> sqlite.Insert | postgresql.Insert:
    statement = INSERT[dialect.name](request_record)
    new = statement.excluded
    values = {
        column.name: new[column.name]
        for column in request_record.c
        if not column.primary_key and column.name != "block_id"
    }
    return statement.on_conflict_do_update(
        index_elements=[request_record.c.request_id],
        set_=values,
        where=or_(request_record.c.phase == "accepted", new.phase == "final"),
    )


def _latest(records: Sequence[RequestRecord]) -> list[RequestRecord]:
    """The record of each request that replaces its others in this batch."""
    latest: dict[str, RequestRecord] = {}
    for record in records:
        older = latest.get(record.request_id)
        if older is None or older.phase == "accepted" or record.phase == "final":
            latest[record.request_id] = record
    return list(latest.values())


def _checked(
    records: Iterator[RequestRecord], check: Callable[[], None]
) -> Iterator[RequestRecord]:
    """Records, with a check before each."""
    for record in records:
        check()
        yield record
