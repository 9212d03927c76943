"""Routes: model ids that stand for several arms, told apart by their policy."""

from service.core.routes.blind import BlindRoute
from service.core.routes.by_context import ByContextRoute
from service.core.routes.cheapest import CheapestRoute
from service.core.routes.compared import CompareRoute
from service.core.routes.fallback import FallbackRoute
from service.core.routes.least_busy import LeastBusyRoute
from service.core.routes.policy import Arm, RouteId
from service.core.routes.shadow import Shadowed, ShadowRoute
from service.core.routes.weighted import WeightedRoute

__all__ = [
    "Arm",
    "BlindRoute",
    "ByContextRoute",
    "CheapestRoute",
    "CompareRoute",
    "FallbackRoute",
    "LeastBusyRoute",
    "Route",
    "RouteId",
    "ShadowRoute",
    "Shadowed",
    "WeightedRoute",
]

Route = (
    WeightedRoute
    | FallbackRoute
    | ByContextRoute
    | CheapestRoute
    | LeastBusyRoute
    | ShadowRoute
    | BlindRoute
    | CompareRoute
)


def sticky_header(route: Route | None) -> str | None:
    """Header whose value keeps a client on an arm of this route; None if it has none."""
    header: str | None = getattr(route, "sticky_header", None)
    return header
