"""Table of routes: those of the configuration, and those that were created over HTTP."""

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Final, Literal

from msgspec import Struct, structs

from service.core.errors import ConfigError, Conflict, InvalidRequest, ModelNotFound, NotFound
from service.core.routes.by_context import ByContextRoute
from service.core.routes.curves import Crossovers
from service.core.routes.route import Route
from service.core.routes.stored import RouteStore, StoredRoute

log = logging.getLogger(__name__)

MOST_ROUTES: Final = 256
"""Routes that can be created over HTTP."""


class RouteEntry(Struct, frozen=True, kw_only=True):
    """A route and its origin."""

    id: str
    source: Literal["configuration", "api"]
    route: Route
    created_at_ns: int | None = None
    """Wall clock; None for a route of the configuration."""
    changed_at_ns: int | None = None
    error: str | None = None
    """Why requests cannot name it."""


class RouteTable(Mapping[str, Route]):
    """The routes that requests may name, by id; changes are written to the store first."""

    def __init__(
        self,
        configured: Mapping[str, Route],
        models: Collection[str],
        store: RouteStore | None = None,
        *,
        crossovers: Crossovers | None = None,
        prepare: Callable[[Route], None] = lambda _: None,
        wall_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        """Read the store. *prepare* is called in a thread before a new route is used.

        Raises ConfigError for a route of the configuration that hides a model or names one that
        does not exist, or StoreUnavailable.
        """
        self.configured = dict(configured)
        self._models = models
        self._store = store
        self._crossovers = crossovers
        self._prepare = prepare
        self._wall_ns = wall_ns
        self._changing = asyncio.Lock()
        self._stored: dict[str, StoredRoute] = {}
        self._troubles: dict[str, str | None] = {}
        for name, route in configured.items():
            try:
                self._check(name, route)
            except (InvalidRequest, ModelNotFound, Conflict) as error:
                raise ConfigError(f"`routes.{name}`: {error}") from error
        if store is not None:
            self._stored = {one.id: one for one in store.all()}
            self._troubles = {one.id: self._trouble(one) for one in self._stored.values()}
        self._active = self._usable()
        for entry in self.entries():
            if entry.error is not None:
                log.warning("the route %s cannot be used: %s", entry.id, entry.error)

    def __repr__(self) -> str:
        return f"<RouteTable [{len(self)} routes]>"

    def __getitem__(self, name: str) -> Route:
        return self._active[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._active)

    def __len__(self) -> int:
        return len(self._active)

    # Reading

    def entries(self) -> tuple[RouteEntry, ...]:
        """All routes, those that cannot be used included."""
        configured = [
            RouteEntry(id=name, source="configuration", route=route)
            for name, route in self.configured.items()
        ]
        return (*configured, *(self._entry(one) for one in self._stored.values()))

    def entry(self, name: str) -> RouteEntry:
        """A route and its origin. Raises NotFound."""
        for entry in self.entries():
            if entry.id == name:
                return entry
        raise NotFound(f"There is no route `{name}`; see GET /v1/routes.", param="route_id")

    # Changes

    async def create(self, name: str, route: Route) -> RouteEntry:
        """Add a route. Raises Conflict for an id in use, or as `replace`."""
        async with self._changing:
            if name in self.configured or name in self._stored:
                raise Conflict(f"There is a route `{name}` already; PUT changes it.", param="id")
            if len(self._stored) >= MOST_ROUTES:
                raise Conflict(f"There are {MOST_ROUTES} routes already; delete one first.")
            return await self._put(name, route)

    async def replace(self, name: str, route: Route) -> RouteEntry:
        """Change a route; requests that run keep their arms.

        Raises NotFound, Conflict for a route of the configuration, ModelNotFound for a model that
        the catalogue does not have, InvalidRequest for an arm that is a route.
        """
        async with self._changing:
            self._changeable(name)
            return await self._put(name, route)

    async def delete(self, name: str) -> None:
        """Remove a route. Raises NotFound, or Conflict for a route of the configuration."""
        async with self._changing:
            self._changeable(name)
            if self._store is not None:
                await asyncio.to_thread(self._store.delete, name)
            del self._stored[name]
            self._active = self._usable()

    def _changeable(self, name: str) -> None:
        if self.entry(name).source == "configuration":
            raise Conflict(
                f"The route `{name}` is in the configuration, which only its file changes.",
                param="route_id",
            )

    async def _put(self, name: str, route: Route) -> RouteEntry:
        # The crossovers of an experiment may have to be read first.
        await asyncio.to_thread(self._check, name, route)
        await asyncio.to_thread(self._prepare, route)
        now_ns = self._wall_ns()
        known = self._stored.get(name)
        new = (
            StoredRoute(id=name, route=route, created_at_ns=now_ns, changed_at_ns=now_ns)
            if known is None
            else structs.replace(known, route=route, changed_at_ns=now_ns)
        )
        if self._store is not None:
            await asyncio.to_thread(self._store.put, new)
        self._stored[name] = new
        self._troubles[name] = None
        self._active = self._usable()
        return self._entry(new)

    # Checks

    def _usable(self) -> dict[str, Route]:
        return self.configured | {
            one.id: one.route for one in self._stored.values() if self._entry(one).error is None
        }

    def _entry(self, stored: StoredRoute) -> RouteEntry:
        return RouteEntry(
            id=stored.id,
            source="api",
            route=stored.route,
            created_at_ns=stored.created_at_ns,
            changed_at_ns=stored.changed_at_ns,
            error=self._troubles.get(stored.id),
        )

    def _trouble(self, stored: StoredRoute) -> str | None:
        """Why a stored route cannot be used: catalogue and configuration change between starts."""
        if stored.id in self.configured:
            return "the configuration has a route of this id"
        try:
            self._check(stored.id, stored.route)
        except (InvalidRequest, ModelNotFound, Conflict) as error:
            return str(error)
        return None

    def _check(self, name: str, route: Route) -> None:
        if name in self._models:
            raise Conflict(f"`{name}` has the id of a model; choose another id.", param="id")
        for model in route.models:
            if model in self._models:
                continue
            if model in self.configured or model in self._stored or model == name:
                raise InvalidRequest(f"`{model}` is a route; name models.", param="route")
            raise ModelNotFound(
                f"it names the model {model}, which the catalogue does not have; see "
                "`triptych models list`.",
                param="route",
            )
        if isinstance(route, ByContextRoute) and route.experiment is not None:
            self._check_experiment(route, route.experiment)

    def _check_experiment(self, route: ByContextRoute, experiment: str) -> None:
        if self._crossovers is None:
            raise InvalidRequest(
                f"the experiment `{experiment}` cannot be read: this service keeps no experiments; "
                "give the route `thresholds`.",
                param="route.experiment",
            )
        self._crossovers.thresholds(experiment, route.metric, route.between)
