"""The policy `shadow`: one model answers, others are asked the same afterwards."""

from typing import Annotated, Final

from msgspec import Meta, Struct

from service.core.routes.policy import RoutePolicy

MOST_SHADOWS: Final = 8


class Shadowed(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model that is asked what the primary was asked; nobody reads its answers."""

    model: str
    """A model or `model:variant`."""
    share: Annotated[float, Meta(ge=0, le=1)] = 1.0
    """Share of the primary's requests that it is asked."""


class ShadowRoute(RoutePolicy, tag="shadow", frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The primary answers; once it has, shadows run on what capacity nobody else uses."""

    primary: str
    """The model that answers clients."""
    shadows: Annotated[tuple[Shadowed, ...], Meta(min_length=1, max_length=MOST_SHADOWS)]
    max_concurrent: Annotated[int, Meta(ge=1, le=64)] = 1
    """Shadows of this route that run at once."""
    max_queued: Annotated[int, Meta(ge=0, le=10_000)] = 16
    """Shadows of this route that may wait for spare capacity; more are skipped."""
    max_wait_s: Annotated[float, Meta(ge=0, le=86_400)] = 60.0
    """Longest wait of a shadow for spare capacity, in seconds."""
    timeout_s: Annotated[float, Meta(gt=0, le=86_400)] = 300.0
    """Time limit of a shadow's run, in seconds."""

    @property
    def models(self) -> tuple[str, ...]:
        """The primary and its shadows."""
        return tuple(dict.fromkeys((self.primary, *(each.model for each in self.shadows))))
