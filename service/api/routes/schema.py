"""Bodies of the endpoints for routes."""

from typing import Literal

from msgspec import Struct

from service.core.routes.route import Route, RouteId
from service.serving.routes.table import RouteEntry


class NewRoute(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A route to create."""

    id: RouteId
    """What clients name as `model`."""
    route: Route
    """The same keys as a table `[routes.ID]` of the configuration."""


class RouteView(Struct, frozen=True, kw_only=True):
    """A route."""

    id: str
    object: Literal["route"] = "route"
    source: Literal["configuration", "api"]
    """Routes of the configuration are read-only."""
    policy: str
    models: list[str]
    route: Route
    created_at_ns: int | None
    """Wall clock, nanoseconds since the epoch; null for a route of the configuration."""
    changed_at_ns: int | None
    error: str | None
    """Why requests cannot name it, as after its model left the catalogue."""

    @classmethod
    def of(cls, entry: RouteEntry) -> "RouteView":
        """Show a route of the table."""
        return cls(
            id=entry.id,
            source=entry.source,
            policy=entry.route.policy,
            models=list(entry.route.models),
            route=entry.route,
            created_at_ns=entry.created_at_ns,
            changed_at_ns=entry.changed_at_ns,
            error=entry.error,
        )


class RouteList(Struct, frozen=True, kw_only=True):
    """All routes, those of the configuration first."""

    object: Literal["list"] = "list"
    data: list[RouteView]
