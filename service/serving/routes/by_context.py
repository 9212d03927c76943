"""By context: the arm whose threshold the length of the prompt is under."""

from service.core.routes.by_context import ByContextRoute, Threshold
from service.core.routes.decision import Decision
from service.core.routes.facts import RouteFacts
from service.serving.routes.eligibility import last_resort, sentence, unfit


def decide(route: ByContextRoute, facts: RouteFacts) -> Decision:
    """Choose the first threshold that the prompt is within; lengths are each arm's own tokens.

    The arms of neighbouring thresholds follow, larger ones first, for an arm that cannot take the
    request or fails before its first token.
    """
    thresholds = facts.thresholds or route.thresholds
    arms = {arm.model: arm for arm in facts.arms}
    troubles = {model: unfit(arm, facts) for model, arm in arms.items()}
    index = next(
        number
        for number, one in enumerate(thresholds)
        if one.up_to_tokens is None or arms[one.model].prompt_tokens <= one.up_to_tokens
    )
    tokens = arms[thresholds[index].model].prompt_tokens
    how = f"{tokens} prompt tokens {_range(thresholds, index)}"
    ordered = sorted(
        range(len(thresholds)), key=lambda number: (abs(number - index), number < index)
    )
    models = dict.fromkeys(thresholds[number].model for number in ordered)
    able = tuple(model for model in models if troubles[model] is None)
    if not able:
        able, how = (last_resort(facts).model,), f"{how}; no arm can take it"
    left_out = [(model, why) for model, why in troubles.items() if model in models]
    return Decision(arms=able, policy=route.policy, reason=sentence(how, left_out=left_out))


def _range(thresholds: tuple[Threshold, ...], index: int) -> str:
    limit = thresholds[index].up_to_tokens
    if limit is not None:
        return f"(up to {limit})"
    return f"(over {thresholds[index - 1].up_to_tokens})" if index else "(any length)"
