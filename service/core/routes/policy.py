"""What every route has: arms, and a policy that its table in the configuration names."""

from typing import Annotated

from msgspec import Meta, Struct

RouteId = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
MOST_ARMS = 16
TokenCount = Annotated[int, Meta(ge=1, le=2**31)]


class Arm(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model of a route."""

    model: str
    """A model or `model:variant`."""
    weight: Annotated[float, Meta(gt=0)] = 1.0
    """Share of a weighted route, relative to the other arms."""


Arms = Annotated[tuple[Arm, ...], Meta(min_length=1, max_length=MOST_ARMS)]


class RoutePolicy(
    Struct, tag_field="policy", frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """Base of all policies; a subclass is told apart by its tag, `policy` in the configuration."""

    @property
    def policy(self) -> str:
        """Name of the policy."""
        return str(self.__struct_config__.tag)

    @property
    def models(self) -> tuple[str, ...]:
        """The models that it may choose, each once, in their order."""
        raise NotImplementedError


class ArmsPolicy(RoutePolicy, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of the policies that choose among a list of arms."""

    arms: Arms

    @property
    def models(self) -> tuple[str, ...]:
        """The models of its arms."""
        return tuple(dict.fromkeys(arm.model for arm in self.arms))
