"""Votes in the record store's database."""

from collections.abc import Collection, Sequence

import msgspec
from sqlalchemy import Connection, delete, or_, select, update
from sqlalchemy.exc import IntegrityError

from service.core.votes.vote import Vote
from service.storage.database import open_database, reading, writing
from service.storage.tables import vote as table

_READ = select(*(table.c[name] for name in Vote.__struct_fields__)).order_by(
    table.c.at_ns, table.c.vote_id
)


class SqlVoteStore:
    """Votes in one database; safe to use from several threads.

    Every method raises StoreUnavailable when the database cannot be used; nothing is written then.
    """

    def __init__(self, url: str) -> None:
        """Open the database at an SQLAlchemy URL and migrate its schema."""
        self._engine = open_database(url)

    def __repr__(self) -> str:
        return f"<SqlVoteStore {self._engine.url.render_as_string(hide_password=True)}>"

    def add(self, vote: Vote) -> bool:
        """Insert a vote; False if there is one with its key already."""
        try:
            with writing(self._engine) as connection:
                connection.execute(table.insert().values(msgspec.structs.asdict(vote)))
        except IntegrityError:
            return False
        return True

    def put(self, votes: Sequence[Vote]) -> tuple[int, int]:
        """Insert or replace by key; return how many were inserted and how many replaced."""
        added = replaced = 0
        with writing(self._engine) as connection:
            for vote in votes:
                older = self._read(connection, table.c.key == vote.key)
                if not older:
                    connection.execute(table.insert().values(msgspec.structs.asdict(vote)))
                    added += 1
                elif older[0].choice != vote.choice:
                    values = msgspec.structs.asdict(vote) | {"vote_id": older[0].vote_id}
                    connection.execute(update(table).where(table.c.key == vote.key).values(values))
                    replaced += 1
        return added, replaced

    def get(self, vote_id: str) -> Vote | None:
        """Read a vote."""
        with reading(self._engine) as connection:
            found = self._read(connection, table.c.vote_id == vote_id)
        return found[0] if found else None

    def of(self, responses: Collection[str]) -> list[Vote]:
        """Votes on any of these answers, oldest first."""
        with reading(self._engine) as connection:
            return self._read(
                connection,
                or_(table.c.left_response.in_(responses), table.c.right_response.in_(responses)),
            )

    def all(self, route: str | None) -> list[Vote]:
        """Votes on answers of a route, or all votes, oldest first."""
        with reading(self._engine) as connection:
            return self._read(connection, *(() if route is None else (table.c.route == route,)))

    def reveal(self, vote_id: str) -> Vote | None:
        """Note that the voter was told the models; return the vote as it is now."""
        with writing(self._engine) as connection:
            connection.execute(
                update(table).where(table.c.vote_id == vote_id).values(revealed=True)
            )
        return self.get(vote_id)

    def remove(self, vote_id: str) -> bool:
        """Take a vote back unless it is revealed; True if it is gone."""
        with writing(self._engine) as connection:
            gone = connection.execute(
                delete(table).where(table.c.vote_id == vote_id, table.c.revealed.is_(False))
            )
            return gone.rowcount > 0

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    def _read(self, connection: Connection, *where: object) -> list[Vote]:
        found = connection.execute(_READ.where(*where)).mappings().all()  # type: ignore[arg-type]
        return [Vote(**row) for row in found]
