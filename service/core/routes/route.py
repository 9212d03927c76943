"""Routes: model ids that stand for several arms."""

from typing import Annotated

from msgspec import Meta, Struct

RouteId = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]


class Arm(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model of a route."""

    model: str
    """A model or `model:variant`."""
    weight: Annotated[float, Meta(gt=0)] = 1.0
    """Share of a weighted route, relative to the other arms."""


class WeightedRoute(
    Struct,
    tag="weighted",
    tag_field="policy",
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
):
    """Spread requests over arms by weight; one client stays on one arm."""

    arms: Annotated[tuple[Arm, ...], Meta(min_length=1)]
    sticky_header: str | None = None
    """Header whose value keeps a client on an arm, before `user` and `X-OpenWebUI-Chat-Id`."""


class FallbackRoute(
    Struct,
    tag="fallback",
    tag_field="policy",
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
):
    """Try arms in order: the next on load failure, full queue or context overflow."""

    arms: Annotated[tuple[Arm, ...], Meta(min_length=1)]


Route = WeightedRoute | FallbackRoute
