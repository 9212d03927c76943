"""Fallback: arms in their order, those that would probably refuse behind the others."""

from itertools import takewhile

from service.core.routes.decision import Decision
from service.core.routes.facts import RouteFacts
from service.core.routes.fallback import FallbackRoute
from service.serving.routes.eligibility import sentence, unfit


def decide(route: FallbackRoute, facts: RouteFacts) -> Decision:
    """Order the arms; the next is tried until one has answered its first token."""
    troubles = {arm.model: unfit(arm, facts) for arm in facts.arms}
    fit = tuple(model for model, trouble in troubles.items() if trouble is None)
    rest = tuple(model for model, trouble in troubles.items() if trouble is not None)
    passed_over = takewhile(lambda item: item[1] is not None, troubles.items())
    return Decision(
        arms=fit + rest,
        policy=route.policy,
        reason=sentence(left_out=passed_over) or "first arm",
    )
