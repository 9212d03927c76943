"""Shadow: the primary answers; which shadows are asked is drawn by their shares."""

from service.core.routes.decision import Decision
from service.core.routes.facts import RouteFacts
from service.core.routes.shadow import ShadowRoute

#: Multiples of it, modulo 1, are spread evenly: each shadow has a draw of its own.
_GOLDEN = 0.6180339887498949


def decide(route: ShadowRoute, facts: RouteFacts) -> Decision:
    """The primary, whatever its state, and the shadows whose share has the draw."""
    shadows = tuple(
        each.model
        for number, each in enumerate(route.shadows)
        if (facts.draw + number * _GOLDEN) % 1 < each.share
    )
    return Decision(
        arms=(route.primary,),
        policy=route.policy,
        reason="primary" + (f"; shadowed by {', '.join(shadows)}" if shadows else ""),
        shadows=shadows,
    )
