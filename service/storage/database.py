"""Database: opened and migrated, with transactions for reading and for writing."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import msgspec
from sqlalchemy import URL, Connection, Engine, Table, create_engine
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import (
    DataError,
    DBAPIError,
    IntegrityError,
    ProgrammingError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from service.core.errors import StoreUnavailable
from service.storage.migrate import migrate
from service.storage.sqlite import prepare

#: Inserts that can replace a row, by dialect.
INSERT: Final[dict[str, Callable[[Table], sqlite.Insert | postgresql.Insert]]] = {
    "sqlite": sqlite.insert,
    "postgresql": postgresql.insert,
}


def open_database(url: str | URL) -> Engine:
    """Open the database at an SQLAlchemy URL and migrate its schema. Raises StoreUnavailable."""
    engine = create_engine(
        url,
        # Parameters may hold prompts, and error texts end in logs.
        hide_parameters=True,
        json_serializer=lambda value: msgspec.json.encode(value).decode(),
        json_deserializer=msgspec.json.decode,
    )
    if engine.dialect.name == "sqlite":
        prepare(engine)
    with _unavailable():
        migrate(engine)
    return engine


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """A transaction that only reads. Raises StoreUnavailable."""
    with _unavailable(), engine.begin() as connection:
        yield connection


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """A transaction that writes. Raises StoreUnavailable.

    On SQLite it takes its turn at the start, where it waits for other writers. One that read first
    would fail at once if another had written meanwhile (SQLITE_BUSY_SNAPSHOT,
    https://sqlite.org/rescode.html#busy_snapshot).
    """
    immediate = engine.execution_options(sqlite_begin="IMMEDIATE")
    with _unavailable(), immediate.begin() as connection:
        yield connection


@contextmanager
def _unavailable() -> Iterator[None]:
    """Turn errors of a database that cannot be used into StoreUnavailable; let bugs through."""
    try:
        yield
    except (DataError, IntegrityError, ProgrammingError):
        raise
    except (DBAPIError, PoolTimeoutError) as error:
        reason = error.orig if isinstance(error, DBAPIError) else error
        raise StoreUnavailable(f"The record store cannot be used: {reason}.") from error
