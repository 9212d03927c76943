"""Where records are kept."""

from service.core.errors import ConfigError
from service.core.ports import RecordStore


def open_store(url: str) -> RecordStore:
    """The store at a URL: `memory://`, `sqlite:///FILE`, `postgresql+psycopg://HOST/NAME`.

    A database is created or migrated when it is opened; a SQLite file's folder must exist.

    Raises:
        ConfigError: The URL names no store, or the database was written by a newer release.
        StoreUnavailable: The database cannot be reached.
    """
    scheme = url.partition(":")[0].partition("+")[0]
    match scheme:
        case "memory":
            from service.storage.memory import MemoryRecordStore

            return MemoryRecordStore()
        case "sqlite" | "postgresql":
            from service.storage.store import SqlRecordStore

            return SqlRecordStore(url)
        case _:
            raise ConfigError(
                f"record store {scheme!r} is not known; use sqlite:///FILE, postgresql+psycopg://… "
                "or memory://"
            )
