"""Endpoints for routes: list, create, change, delete, explain, statistics."""
