"""The policies, by the kind of route."""

from typing import assert_never

from service.core.routes.decision import Decision
from service.core.routes.facts import RouteFacts
from service.core.routes.route import (
    ByContextRoute,
    CheapestRoute,
    FallbackRoute,
    LeastBusyRoute,
    Route,
    WeightedRoute,
)
from service.serving.routes import by_context, cheapest, fallback, least_busy, weighted


def decide(route: Route, facts: RouteFacts) -> Decision:
    """Decide by the route's policy: a pure function, the same facts give the same decision."""
    match route:
        case WeightedRoute():
            return weighted.decide(route, facts)
        case FallbackRoute():
            return fallback.decide(route, facts)
        case ByContextRoute():
            return by_context.decide(route, facts)
        case CheapestRoute():
            return cheapest.decide(route, facts)
        case LeastBusyRoute():
            return least_busy.decide(route, facts)
        case _:
            assert_never(route)
