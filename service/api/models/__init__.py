"""Endpoints for models: list, show, load, unload, pin."""
