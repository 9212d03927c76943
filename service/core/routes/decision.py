"""Decisions of routes, and what was recorded of them."""

from typing import Any

import msgspec
from msgspec import Struct

from service.core.routes.facts import RouteFacts
from service.core.routes.route import Route


class Decision(Struct, frozen=True, kw_only=True):
    """The models to try, and the reason."""

    arms: tuple[str, ...]
    """Models in the order to try; never empty."""
    policy: str
    """`direct`, or the route's policy."""
    reason: str
    inputs: dict[str, object] | None = None
    """What it was decided by, as JSON; None for a request that names a model."""
    hidden: bool = False
    """Nothing that the client sees may tell which model answers."""
    shadows: tuple[str, ...] = ()
    """Models that are asked the same once the answer has ended."""


class DecisionInputs(Struct, frozen=True, kw_only=True):
    """Contents of `Decision.inputs`: enough to compute the decision again."""

    definition: Route
    """The route as it was at that moment."""
    facts: RouteFacts
    arms: tuple[str, ...]
    """What was decided."""

    def to_json(self) -> dict[str, object]:
        """Values that JSON can hold."""
        built: dict[str, object] = msgspec.to_builtins(self)
        return built


def read_inputs(inputs: dict[str, Any]) -> DecisionInputs:
    """Recorded inputs. Raises msgspec.ValidationError for those of another release."""
    return msgspec.convert(inputs, DecisionInputs)
