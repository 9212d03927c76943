"""In-memory store of routes, for tests and for services that must leave nothing on disk."""

from service.core.routes.stored import StoredRoute


class MemoryRouteStore:
    """Routes in a dict; gone with the process."""

    def __init__(self) -> None:
        self._routes: dict[str, StoredRoute] = {}

    def __repr__(self) -> str:
        return f"<MemoryRouteStore [{len(self._routes)} routes]>"

    def put(self, route: StoredRoute) -> None:
        """Insert or replace a route."""
        self._routes[route.id] = route

    def delete(self, route_id: str) -> None:
        """Remove a route, if it is there."""
        self._routes.pop(route_id, None)

    def all(self) -> tuple[StoredRoute, ...]:
        """Read all routes, by id."""
        return tuple(self._routes[each] for each in sorted(self._routes))

    def close(self) -> None:
        """Nothing to release."""
