"""Blind: an arm drawn by weight, hidden from the client."""

from service.core.routes.blind import BlindRoute
from service.core.routes.decision import Decision
from service.core.routes.facts import RouteFacts
from service.serving.routes.eligibility import sentence
from service.serving.routes.weighted import drawn, kept


def decide(route: BlindRoute, facts: RouteFacts) -> Decision:
    """Choose an arm among those that can answer; among all if none can."""
    down = {arm.model: arm.down for arm in facts.arms}
    able = [arm for arm in route.arms if down[arm.model] is None] or route.arms
    if route.sticky and facts.key is not None:
        model, how = kept(able, facts.key), "sticky"
    else:
        model, how = drawn(able, facts.draw), "drawn at random"
    return Decision(
        arms=(model,),
        policy=route.policy,
        reason=sentence(how, left_out=down.items()),
        hidden=True,
    )
