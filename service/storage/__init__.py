"""Record storage: stores, the writer, the schema and its migrations."""

from service.core.errors import ConfigError, StoreUnavailable
from service.core.ports import RecordStore


def open_store(url: str) -> RecordStore:
    """The store at a URL: `memory://`, `sqlite:///FILE`, `postgresql+psycopg://HOST/NAME`.

    A database is created or migrated when it is opened; a SQLite file's folder must exist.

    Raises:
        ConfigError: The URL names no store, or the database cannot be opened, is damaged, or was
            written by a newer release.
    """
    scheme = url.partition(":")[0].partition("+")[0]
    match scheme:
        case "memory":
            from service.storage.memory import MemoryRecordStore

            return MemoryRecordStore()
        case "sqlite" | "postgresql":
            from service.storage.store import SqlRecordStore

            try:
                return SqlRecordStore(url)
            except StoreUnavailable as error:
                raise ConfigError(
                    f"{_without_password(url)}: {error} If the file is damaged, move it away to "
                    "start with an empty one, or restore a backup"
                ) from error
        case _:
            raise ConfigError(
                f"record store {scheme!r} is not known; use sqlite:///FILE, postgresql+psycopg://… "
                "or memory://"
            )


def _without_password(url: str) -> str:
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"
