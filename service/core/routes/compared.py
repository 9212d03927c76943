"""The policy `compare`: all arms answer a chat, in one message."""

from typing import Annotated, Literal

from msgspec import Meta

from service.core.routes.policy import Arm, ArmsPolicy

#: As many as a comparison has.
FEWEST, MOST = 2, 8


class CompareRoute(
    ArmsPolicy, tag="compare", frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """Answers of all arms one below another, headed by their names, with a table of costs."""

    arms: Annotated[tuple[Arm, ...], Meta(min_length=FEWEST, max_length=MOST)]
    mode: Literal["isolated", "concurrent"] = "isolated"
    """`isolated` runs one arm after another, each while nothing else runs."""
