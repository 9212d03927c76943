"""Stores of routes that were created over HTTP."""

from service.core.routes.stored import RouteStore


def open_routes(url: str) -> RouteStore:
    """The store of routes at the URL of a record store, in whose database they are kept.

    Raises StoreUnavailable. `service.storage.open_store` opens the database first and names what is
    wrong with a URL or a file.
    """
    if url.startswith("memory:"):
        from service.storage.routes.memory import MemoryRouteStore

        return MemoryRouteStore()
    from service.storage.routes.sql import SqlRouteStore

    return SqlRouteStore(url)
