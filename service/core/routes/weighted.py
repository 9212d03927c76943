"""The policy `weighted`: spread requests over arms by weight."""

from service.core.routes.policy import ArmsPolicy


class WeightedRoute(
    ArmsPolicy, tag="weighted", frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """Spread requests over arms by weight; one client stays on one arm."""

    sticky_header: str | None = None
    """Header whose value keeps a client on an arm, before `user` and `X-OpenWebUI-Chat-Id`."""
