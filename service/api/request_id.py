"""Request ids: one for each HTTP request, returned on every response."""

from typing import Any

from litestar.types import Message, Scope

from service.core.ids import new_request_id

HEADER = "x-request-id"
_KEY = "triptych_request_id"


def request_id_of(scope: Scope) -> str:
    """Return the request's id, generated on first use."""
    state: dict[str, Any] = scope["state"]
    request_id: str = state.setdefault(_KEY, None) or new_request_id()
    state[_KEY] = request_id
    return request_id


async def add_request_id(message: Message, scope: Scope) -> None:
    """Add the id to a response, including errors and unknown paths."""
    if message["type"] == "http.response.start":
        header = (HEADER.encode(), request_id_of(scope).encode())
        message["headers"] = [*message.get("headers", ()), header]
