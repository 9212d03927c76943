"""HTTP/1.1 connection that timestamps each part of an answer as it is received."""

import asyncio
import time
from typing import cast

import httptools


class Answer:
    """The part of an answer received so far."""

    def __init__(self) -> None:
        self.head_ns: int | None = None
        self.status: int | None = None
        self.request_id: str | None = None
        self.framed = False
        """The head says where the body ends; otherwise it ends with the connection."""
        self.pieces: list[tuple[int, bytes]] = []


class Connection(asyncio.Protocol):
    """Carries one exchange at a time.

    `data_received` runs right after the `recv`, and the stamp is its first statement. Only the
    framing of HTTP is parsed here, after the stamp, since the end of an answer frees the
    connection; events and JSON are read elsewhere.
    """

    def __init__(self) -> None:
        self.open = False
        self._transport: asyncio.Transport | None = None
        self._answer = Answer()
        self._parser = httptools.HttpResponseParser(self)
        self._received_ns = 0
        self._ended: asyncio.Future[None] | None = None

    async def exchange(self, request: bytes, answer: Answer) -> None:
        """Write *request* and fill *answer* to its end.

        Raises:
            ConnectionError: The connection ended first, or what came is not HTTP.
        """
        assert self._transport is not None
        self._answer = answer
        self._parser = httptools.HttpResponseParser(self)
        self._ended = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        await self._ended

    def close(self) -> None:
        """Close the connection; the service takes that for a client that hung up."""
        self.open = False
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        # uvloop's transports are none of asyncio's classes.
        self._transport, self.open = cast("asyncio.Transport", transport), True

    def data_received(self, data: bytes) -> None:
        """Stamp, then attribute the bytes."""
        self._received_ns = time.monotonic_ns()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._end(ConnectionError("malformed HTTP answer"))
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """End the exchange; an answer without a framed length is whole only now."""
        self.open = False
        answer = self._answer
        whole = exc is None and answer.head_ns is not None and not answer.framed
        self._end(None if whole else ConnectionError("connection closed by the service"))

    def on_header(self, name: bytes, value: bytes) -> None:
        """Note the connection header (called by the parser)."""
        match name.lower():
            case b"x-request-id":
                self._answer.request_id = value.decode("latin-1")
            case b"content-length" | b"transfer-encoding":
                self._answer.framed = True

    def on_headers_complete(self) -> None:
        """Keep the status (called by the parser)."""
        self._answer.head_ns = self._received_ns
        self._answer.status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        """Append to the body (called by the parser)."""
        self._answer.pieces.append((self._received_ns, body))

    def on_message_complete(self) -> None:
        """End the exchange (called by the parser)."""
        if not self._parser.should_keep_alive():
            self.open = False
        self._end(None)

    def _end(self, error: Exception | None) -> None:
        if self._ended is None or self._ended.done():
            return
        if error is None:
            self._ended.set_result(None)
        else:
            self._ended.set_exception(error)
