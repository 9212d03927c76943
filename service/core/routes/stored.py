"""Stored routes, and the Protocol of their store."""

from typing import Protocol

from msgspec import Struct

from service.core.routes.route import Route


class StoredRoute(Struct, frozen=True, kw_only=True):
    """A route that was created over HTTP. Times are nanoseconds of the wall clock."""

    id: str
    route: Route
    created_at_ns: int
    changed_at_ns: int


class RouteStore(Protocol):
    """Storage of routes. Methods block: call them from a thread.

    Every method raises StoreUnavailable when the database cannot be used; nothing is written then.
    """

    def put(self, route: StoredRoute) -> None:
        """Insert or replace a route."""

    def delete(self, route_id: str) -> None:
        """Remove a route, if it is there."""

    def all(self) -> tuple[StoredRoute, ...]:
        """Read all routes, by id."""

    def close(self) -> None:
        """Release files and connections."""
