"""The policy `fallback`: try arms in order."""

from service.core.routes.policy import ArmsPolicy


class FallbackRoute(
    ArmsPolicy, tag="fallback", frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """Try arms in order: the next on load failure, full queue or context overflow."""
