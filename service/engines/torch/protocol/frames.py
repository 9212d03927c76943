"""FrameProtocol: the asyncio protocol at both ends of the torch host's socket."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar, cast

import msgspec

from service.core.errors import InvalidRequest
from service.engines.torch.protocol.messages import (
    CallFailed,
    Events,
    FrameTooLarge,
    FromHost,
    PromptScores,
    RequestFailed,
    SplitIntoTokens,
    Text,
    ToHost,
    TokenIds,
    Tokenizer,
    frame,
    frame_length,
)

HEADER_BYTES = 4
Received = TypeVar("Received")


def host_frames(message: FromHost) -> Iterator[bytes]:
    """Encode a message of the host.

    If it is too large for a frame, the requests or the call that it is for fail, and nobody else:
    the connection, and with it all other models, is kept. Raises FrameTooLarge for a message that
    belongs to no request or call.
    """
    try:
        yield frame(message)
    except FrameTooLarge as error:
        for smaller in _reduced(message, error):
            yield from host_frames(smaller)


def _reduced(message: FromHost, error: FrameTooLarge) -> Iterator[FromHost]:
    """Replacement for a message that is too large: the failures that it causes."""
    reason = f"The answer is too large to be sent: {error}."
    match message:
        case Events(items=((request_id, _),)) | PromptScores(request_id=request_id):
            yield RequestFailed(request_id=request_id, code=InvalidRequest.code, message=reason)
        case Events(items=items):
            for item in items:
                yield Events((item,))
        case TokenIds() | Text() | Tokenizer() | SplitIntoTokens():
            yield CallFailed(message.call_id, InvalidRequest.code, reason)
        case _:
            raise error


class FrameProtocol(asyncio.Protocol, Generic[Received]):
    """Passes each decoded message to `on_message`, and the loss of the peer, once, to `on_lost`."""

    def __init__(
        self,
        decoder: "msgspec.msgpack.Decoder[Received]",
        *,
        on_message: Callable[[Received], None],
        on_lost: Callable[[], None],
    ) -> None:
        self._decoder = decoder
        self._on_message = on_message
        self._on_lost = on_lost
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None

    @property
    def connected(self) -> bool:
        """True while the connection is open."""
        return self._transport is not None and not self._transport.is_closing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the stream."""
        # uvloop's transports have the methods but not the base class.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Pass on all complete messages; a frame that cannot be decoded ends the connection.

        Whose it is cannot be told, and neither where the next one begins.
        """
        self._buffer += data
        start = 0
        try:
            while (body := start + HEADER_BYTES) <= len(self._buffer):
                end = body + frame_length(bytes(self._buffer[start:body]))
                if end > len(self._buffer):
                    break
                self._on_message(self._decoder.decode(self._buffer[body:end]))
                start = end
        except (msgspec.DecodeError, ValueError):
            self.close()
            raise
        finally:
            del self._buffer[:start]

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  asyncio's own name
        """Tell the owner."""
        self._transport = None
        self._on_lost()

    def send(self, message: ToHost) -> None:
        """Queue one message; dropped once the peer is gone. Raises FrameTooLarge."""
        data = frame(message)
        if self._transport is not None:
            self._transport.write(data)

    def close(self) -> None:
        """Close the connection."""
        if self._transport is not None:
            self._transport.close()
