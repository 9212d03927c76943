"""The policy `blind`: an arm answers, and nothing in the answer tells which."""

from typing import Annotated

from msgspec import Meta

from service.core.routes.policy import MOST_ARMS, Arm, ArmsPolicy


class BlindRoute(ArmsPolicy, tag="blind", frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Draw an arm for each request and hide it, so that people can vote on answers."""

    arms: Annotated[tuple[Arm, ...], Meta(min_length=2, max_length=MOST_ARMS)]
    sticky: bool = False
    """One client stays on one arm. Two answers to one prompt are then both of that arm."""
    sticky_header: str | None = None
    """With `sticky`: header whose value keeps a client on an arm."""
