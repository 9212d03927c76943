"""Least busy: the loaded arm with the fewest requests, relative to its weight."""

from service.core.routes.decision import Decision
from service.core.routes.facts import ArmFacts, RouteFacts
from service.core.routes.least_busy import LeastBusyRoute
from service.serving.routes.eligibility import last_resort, sentence, unfit
from service.serving.routes.weighted import drawn


def decide(route: LeastBusyRoute, facts: RouteFacts) -> Decision:
    """Choose the least busy arm that can take the request; equals are drawn by weight.

    The others follow by how busy they are, for the case that it fails before its first token.
    """
    weight = {arm.model: arm.weight for arm in route.arms}

    def busy(arm: ArmFacts) -> tuple[bool, float]:
        return not arm.loaded, arm.requests / weight[arm.model]

    troubles = {arm.model: unfit(arm, facts) for arm in facts.arms}
    fit = sorted((arm for arm in facts.arms if troubles[arm.model] is None), key=busy)
    if not fit:
        model = last_resort(facts).model
        reason = sentence("no arm can take it", left_out=troubles.items())
        return Decision(arms=(model,), policy=route.policy, reason=reason)
    least = {arm.model for arm in fit if busy(arm) == busy(fit[0])}
    first = drawn([arm for arm in route.arms if arm.model in least], facts.draw)
    count = next(arm.requests for arm in fit if arm.model == first)
    how = f"fewest requests ({count})" + (", drawn among equals" if len(least) > 1 else "")
    others = tuple(arm.model for arm in fit if arm.model != first)
    return Decision(
        arms=(first, *others),
        policy=route.policy,
        reason=sentence(how, left_out=troubles.items()),
    )
