"""Explanation of a request's route: what was recorded, and the same decision computed again."""

import msgspec
from msgspec import Struct

from service.core.errors import NotFound
from service.core.record import RequestRecord
from service.core.routes.decision import read_inputs
from service.core.routes.facts import RouteFacts
from service.core.routes.route import Route
from service.core.summary import served_id
from service.serving.routes.policies import decide


class Explanation(Struct, frozen=True, kw_only=True):
    """Why a request was answered by its model."""

    request_id: str
    requested_model: str
    policy: str
    arms: tuple[str, ...]
    """Models that were to be tried, in their order."""
    reason: str | None
    """As recorded; arms that failed before their first token are added to it."""
    served_by: str | None
    """Model that answered, or failed last; None if none was reached."""
    recomputed_arms: tuple[str, ...] | None = None
    """The same, computed again from `definition` and `facts`; None where a model was named."""
    recomputed_reason: str | None = None
    same: bool | None = None
    """Whether the recorded decision is the computed one."""
    definition: Route | None = None
    """The route as it was at that moment."""
    facts: RouteFacts | None = None


#: Policies that ask models without choosing: a shadow, an arm of a compare route.
_ALL_ARMS = frozenset({"shadow", "compare"})


def explain(record: RequestRecord) -> Explanation:
    """Compute a decision again from its record alone.

    Raises NotFound for a record that does not say how it was routed.
    """
    served_by = served_id(record.model, record.variant)
    if record.route == "direct":
        return Explanation(
            request_id=record.request_id,
            requested_model=record.requested_model,
            policy=record.route,
            arms=(record.requested_model,),
            reason=record.route_reason,
            served_by=served_by,
        )
    if record.route in _ALL_ARMS and record.route_inputs is None:  # there was nothing to choose
        return Explanation(
            request_id=record.request_id,
            requested_model=record.requested_model,
            policy=record.route,
            arms=() if served_by is None else (served_by,),
            reason=record.route_reason,
            served_by=served_by,
        )
    if record.route is None or record.route_inputs is None:
        raise NotFound(
            "The record does not say how this request was routed: it was refused before, or "
            "recorded by a release that did not note it.",
            param="request_id",
        )
    try:
        inputs = read_inputs(record.route_inputs)
    except msgspec.ValidationError as error:
        raise NotFound(
            f"This release cannot read what the decision was made by: {error}.", param="request_id"
        ) from error
    again = decide(inputs.definition, inputs.facts)
    return Explanation(
        request_id=record.request_id,
        requested_model=record.requested_model,
        policy=record.route,
        arms=inputs.arms,
        reason=record.route_reason,
        served_by=served_by,
        recomputed_arms=again.arms,
        recomputed_reason=again.reason,
        same=again.arms == inputs.arms and (record.route_reason or "").startswith(again.reason),
        definition=inputs.definition,
        facts=inputs.facts,
    )
