"""The policy `least_busy`: the arm with the fewest requests."""

from service.core.routes.policy import ArmsPolicy


class LeastBusyRoute(
    ArmsPolicy, tag="least_busy", frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """The loaded arm with the fewest waiting and running requests, relative to its weight."""
