"""Table of routes: those of the configuration, and those that were created over HTTP."""

from collections.abc import Collection, Iterator, Mapping

from service.core.errors import ConfigError
from service.core.routes.route import Route


class RouteTable(Mapping[str, Route]):
    """The routes that requests may name."""

    def __init__(self, configured: Mapping[str, Route], models: Collection[str]) -> None:
        """Raise ConfigError for a route that hides a model or names one that does not exist."""
        self.configured = dict(configured)
        self._models = models
        check_routes(configured, models)

    def __repr__(self) -> str:
        return f"<RouteTable [{len(self)} routes]>"

    def __getitem__(self, name: str) -> Route:
        return self.configured[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.configured)

    def __len__(self) -> int:
        return len(self.configured)


def check_routes(routes: Mapping[str, Route], models: Collection[str]) -> None:
    """Raise ConfigError for a route that hides a model or names an arm that does not exist."""
    for name, route in routes.items():
        if name in models:
            raise ConfigError(f"`routes.{name}` has the id of a model; choose another id")
        for model in route.models:
            if model not in models:
                raise ConfigError(
                    f"`routes.{name}` names the model {model}, which the catalogue does not "
                    "have; see `triptych models list`"
                )
