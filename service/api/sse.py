"""Writer of server-sent events; it notices a client that disconnects or stops reading."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping

import msgspec
from litestar.types import Receive, Scope, Send

from service.api.errors import ErrorBody, problem_of
from service.core.errors import TriptychError

log = logging.getLogger(__name__)

DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": keep-alive\n\n"
#: nginx's status for a client that closed the connection; nobody receives it.
CLIENT_CLOSED_REQUEST = 499
#: Longest wait for the first event before the status line, so that early failures get a status.
FIRST_EVENT_S = 5.0
#: A client that reads nothing for this long is dropped, since it holds a slot that others need.
STALLED_S = 60.0

_encode = msgspec.json.Encoder().encode


def data(value: object) -> bytes:
    """Encode an event."""
    return b"data: " + _encode(value) + b"\n\n"


class ClientDisconnected(Exception):
    """The client closed the connection or stopped reading."""


@contextlib.asynccontextmanager
async def cancelled_on_disconnect(receive: Receive) -> AsyncIterator[Callable[[], None]]:
    """Cancel the block as soon as the client disconnects, and raise ClientDisconnected.

    Enter it after the body was read. Yields a function that treats the client as disconnected.
    """
    loop = asyncio.get_running_loop()
    presence = asyncio.timeout(None)

    def hang_up() -> None:
        presence.reschedule(loop.time())

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        hang_up()

    try:
        async with presence:
            watching = asyncio.create_task(watch())
            try:
                yield hang_up
            finally:
                watching.cancel()
    except TimeoutError:
        if presence.expired():
            raise ClientDisconnected from None
        raise


class EventStream:
    """Response of events, given as frames that `data` encoded.

    The response starts with the first frame: an earlier error is raised and gets a response of its
    own, a later one becomes an event, and the stream ends without `[DONE]`. Silence is filled with
    comments. When the client disconnects, the frames' generator is closed at once.
    """

    def __init__(
        self,
        frames: AsyncGenerator[bytes],
        *,
        headers: Callable[[], Mapping[str, str]],
        keepalive_s: float,
        first_event_s: float = FIRST_EVENT_S,
        stalled_s: float = STALLED_S,
    ) -> None:
        self._frames = frames
        self._headers = headers
        self._keepalive_s = keepalive_s
        self._first_event_s = min(first_event_s, keepalive_s)
        self._stalled_s = stalled_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 (ASGI)
        """Answer one ASGI request."""
        wire = _Wire(send, self._headers)
        with contextlib.suppress(ClientDisconnected):
            async with cancelled_on_disconnect(receive) as hang_up:
                silence = asyncio.create_task(self._fill_silence(wire, hang_up))
                try:
                    async with contextlib.aclosing(self._frames):
                        await self._send_all(wire)
                finally:
                    silence.cancel()

    async def _send_all(self, wire: "_Wire") -> None:
        try:
            async for frame in self._frames:
                await wire.write(frame)
        except Exception as error:
            if not wire.begun:
                raise
            if not isinstance(error, TriptychError):  # a bug, too late for another status
                log.exception("a stream failed")
            await wire.write(data(ErrorBody(problem_of(error))))
        await wire.write(b"", more=False)

    async def _fill_silence(self, wire: "_Wire", hang_up: Callable[[], None]) -> None:
        """Send a comment after a silence; drop the client when a write takes too long."""
        await asyncio.sleep(self._first_event_s)
        while True:
            now_s = time.monotonic()
            if wire.writing_since_s is not None:
                if now_s - wire.writing_since_s >= self._stalled_s:
                    hang_up()
            elif not wire.begun or now_s - wire.written_s >= self._keepalive_s:
                try:
                    async with asyncio.timeout(self._stalled_s):
                        await wire.write(KEEP_ALIVE)
                except TimeoutError:
                    hang_up()
            due_s = wire.written_s + self._keepalive_s - time.monotonic()
            await asyncio.sleep(due_s if due_s > 0 else self._keepalive_s)


class _Wire:
    """Serializes writes; the first one sends the response's head."""

    def __init__(self, send: Send, headers: Callable[[], Mapping[str, str]]) -> None:
        self._send = send
        self._headers = headers
        self._turn = asyncio.Lock()
        self.begun = False
        self.written_s = time.monotonic()
        self.writing_since_s: float | None = None

    async def write(self, body: bytes, *, more: bool = True) -> None:
        """Send part of the body."""
        async with self._turn:
            self.writing_since_s = time.monotonic()
            if not self.begun:
                self.begun = True
                await self._begin()
            await self._send({"type": "http.response.body", "body": body, "more_body": more})
            self.writing_since_s, self.written_s = None, time.monotonic()

    async def _begin(self) -> None:
        headers = {
            "content-type": "text/event-stream; charset=utf-8",
            "cache-control": "no-cache",
            "x-accel-buffering": "no",
            **self._headers(),
        }
        encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
        await self._send({"type": "http.response.start", "status": 200, "headers": encoded})
