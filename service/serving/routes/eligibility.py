"""Which arms can take a request."""

from collections.abc import Iterable

from service.core.routes.facts import ArmFacts, RouteFacts


def unfit(arm: ArmFacts, facts: RouteFacts) -> str | None:
    """Reason why an arm would probably refuse this request; None if it would not."""
    return arm.down or ("queue full" if arm.requests >= arm.requests_limit else over(arm, facts))


def over(arm: ArmFacts, facts: RouteFacts) -> str | None:
    """Reason if prompt and answer would not fit the arm's context."""
    wanted_tokens = arm.prompt_tokens + (facts.max_tokens or 1)
    return "context too small" if wanted_tokens > arm.context_tokens else None


def last_resort(facts: RouteFacts) -> ArmFacts:
    """The arm to try where none seems to fit: its own error says more than the estimate.

    Of those that are up, the one with the largest context.
    """
    return max(facts.arms, key=lambda arm: (arm.down is None, arm.context_tokens))


def sentence(*parts: str, left_out: Iterable[tuple[str, str | None]] = ()) -> str:
    """The reason of a decision: what decided, and why other arms were left out."""
    return "; ".join((*parts, *(f"{model}: {why}" for model, why in left_out if why)))
