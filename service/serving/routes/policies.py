"""The policies, by the kind of route."""

from typing import assert_never

from service.core.errors import InvalidRequest
from service.core.routes.decision import Decision
from service.core.routes.facts import RouteFacts
from service.core.routes.route import (
    BlindRoute,
    ByContextRoute,
    CheapestRoute,
    CompareRoute,
    FallbackRoute,
    LeastBusyRoute,
    Route,
    ShadowRoute,
    WeightedRoute,
)
from service.serving.routes import (
    blind,
    by_context,
    cheapest,
    fallback,
    least_busy,
    shadow,
    weighted,
)


def decide(route: Route, facts: RouteFacts) -> Decision:  # noqa: PLR0911 (one a policy)
    """Decide by the route's policy: a pure function, the same facts give the same decision.

    Raises InvalidRequest for a route that takes chats only and all its arms at once.
    """
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
        case ShadowRoute():
            return shadow.decide(route, facts)
        case BlindRoute():
            return blind.decide(route, facts)
        case CompareRoute():
            raise InvalidRequest(
                "This model is a route of the policy `compare`, which answers chats alone; name "
                "one of its arms.",
                param="model",
            )
        case _:
            assert_never(route)
