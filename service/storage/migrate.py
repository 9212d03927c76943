"""Migration of a database to the newest schema when it is opened."""

from sqlalchemy import Connection, Engine, inspect, text

from service.core.errors import ConfigError
from service.storage.tables import SCHEMA_REVISION


def migrate(engine: Engine) -> None:
    """Apply the missing revisions in one transaction; a current schema costs one query.

    Raises:
        ConfigError: The database was written by a newer release.
    """
    with engine.connect() as connection:
        if _revision(connection) == SCHEMA_REVISION:
            return
    # alembic takes a quarter of a second to import: only where there is something to migrate.
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", "service.storage:migrations")
    with engine.execution_options(sqlite_begin="IMMEDIATE").begin() as connection:
        config.attributes["connection"] = connection
        try:
            command.upgrade(config, "head")
        except CommandError as error:
            raise ConfigError(
                f"{engine.url.render_as_string()}: has the schema {_revision(connection)!r}, which "
                "this release does not know; open it with the release that wrote it, or newer"
            ) from error


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    revision: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
    return revision
