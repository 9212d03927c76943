"""SQLite connections: WAL, busy timeout and explicit transactions."""

import sqlite3

from sqlalchemy import Connection, Engine, event
from sqlalchemy.pool import ConnectionPoolEntry

_BUSY_TIMEOUT_MS = 5000


def prepare(engine: Engine) -> None:
    """Configure every connection that *engine* opens.

    With WAL and `synchronous=NORMAL` a killed process loses nothing that was committed; a power cut
    may lose the last transactions (https://sqlite.org/pragma.html#pragma_synchronous).
    """
    event.listen(engine, "connect", _connect)
    event.listen(engine, "begin", _begin)


def _connect(connection: sqlite3.Connection, _entry: ConnectionPoolEntry) -> None:
    # The driver would otherwise commit before schema changes and begin only before writes.
    connection.isolation_level = None
    for pragma in (
        f"busy_timeout = {_BUSY_TIMEOUT_MS}",
        "journal_mode = WAL",
        "synchronous = NORMAL",
        "foreign_keys = ON",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _begin(connection: Connection) -> None:
    mode = connection.get_execution_options().get("sqlite_begin", "DEFERRED")
    connection.exec_driver_sql(f"BEGIN {mode}")
