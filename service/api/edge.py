"""Edge: checks that apply to every HTTP request before it is routed."""

import asyncio
from collections.abc import Callable
from typing import Final

from litestar.enums import ScopeType
from litestar.types import (
    ASGIApp,
    HTTPReceiveMessage,
    HTTPScope,
    Message,
    Receive,
    Scope,
    Send,
    WebSocketReceiveMessage,
)

from service.core.errors import RequestTimeout

#: Paths that monitors probe by HEAD; elsewhere a GET may be an endless stream.
PROBED: Final = frozenset({"/health", "/health/decode", "/ready", "/livez", "/metrics"})


class Edge:
    """Answers HEAD on probes, limits the time for a body, closes connections while draining."""

    def __init__(self, app: ASGIApp, *, body_s: float, draining: Callable[[], bool]) -> None:
        self._app = app
        self._body_s = body_s
        self._draining = draining

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one ASGI request."""
        if scope["type"] != ScopeType.HTTP:  # websockets, which are not served, and the lifespan
            await self._app(scope, receive, send)
            return
        asked = scope
        if asked["method"] == "HEAD" and asked["path"] in PROBED:
            asked = HTTPScope(**asked)
            asked["method"] = "GET"  # the server drops the body: its own scope still says HEAD
        body = _Body(receive, self._body_s)

        async def closing(message: Message) -> None:
            if message["type"] == "http.response.start" and (body.late or self._draining()):
                message["headers"] = [*message.get("headers", ()), (b"connection", b"close")]
            await send(message)

        await self._app(asked, body.receive, closing)


class _Body:
    """Receives a request; raises RequestTimeout if its body takes too long."""

    def __init__(self, receive: Receive, limit_s: float) -> None:
        self._receive = receive
        self._complete = False
        self._due_s = asyncio.get_running_loop().time() + limit_s
        self._limit_s = limit_s
        self.late = False

    async def receive(self) -> "HTTPReceiveMessage | WebSocketReceiveMessage":
        """The next message; without a limit once the body is complete."""
        if self._complete:
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._due_s):
                message = await self._receive()
        except TimeoutError:
            self.late = True
            raise RequestTimeout(
                f"The body of the request did not arrive within {self._limit_s:g} s."
            ) from None
        self._complete = message["type"] != "http.request" or not message["more_body"]
        return message
