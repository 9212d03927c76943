"""Routes in the database of the records."""

import msgspec
from sqlalchemy import URL, delete, select

from service.core.routes.stored import StoredRoute
from service.storage.database import INSERT, open_database, reading, writing
from service.storage.tables import route as routes


class SqlRouteStore:
    """Routes as documents; safe to use from several threads.

    Every method raises StoreUnavailable when the database cannot be used; nothing is written then.
    """

    def __init__(self, url: str | URL) -> None:
        """Open the database at an SQLAlchemy URL and migrate its schema."""
        self._engine = open_database(url)

    def __repr__(self) -> str:
        return f"<SqlRouteStore {self._engine.url.render_as_string(hide_password=True)}>"

    def put(self, route: StoredRoute) -> None:
        """Insert or replace a route."""
        new = INSERT[self._engine.dialect.name](routes).values(
            id=route.id, document=msgspec.to_builtins(route)
        )
        with writing(self._engine) as connection:
            connection.execute(
                new.on_conflict_do_update(
                    index_elements=[routes.c.id], set_={"document": new.excluded.document}
                )
            )

    def delete(self, route_id: str) -> None:
        """Remove a route, if it is there."""
        with writing(self._engine) as connection:
            connection.execute(delete(routes).where(routes.c.id == route_id))

    def all(self) -> tuple[StoredRoute, ...]:
        """Read all routes, by id."""
        query = select(routes.c.document).order_by(routes.c.id)
        with reading(self._engine) as connection:
            return tuple(msgspec.convert(each, StoredRoute) for each in connection.scalars(query))

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()
