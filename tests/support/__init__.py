"""Fixtures that tests of several packages share: tiny models, their oracle, live services."""
