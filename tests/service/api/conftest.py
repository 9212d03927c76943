"""The whole service on echo models."""

from live_service import live, serve

__all__ = ["live", "serve"]
