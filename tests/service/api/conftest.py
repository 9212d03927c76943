"""The whole service on echo models."""

from support.live_service import live, serve

__all__ = ["live", "serve"]
