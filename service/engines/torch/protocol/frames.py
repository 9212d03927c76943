"""Frames on a stream: an asyncio protocol that both ends of the host's socket speak."""

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar, cast

import msgspec

from service.engines.torch.protocol.messages import FromHost, ToHost, frame, frame_length

HEADER_BYTES = 4
Received = TypeVar("Received")


class FrameProtocol(asyncio.Protocol, Generic[Received]):
    """Decodes what arrives, hands it to `on_message`, and says once when the peer is gone."""

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
        """Whether `send` reaches the peer."""
        return self._transport is not None and not self._transport.is_closing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the stream."""
        # uvloop's transports have the methods but not the base class.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Hand on every whole message; a frame that cannot be decoded ends the connection."""
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

    def send(self, message: ToHost | FromHost) -> None:
        """Queue one message; a no-op once the peer is gone, which `on_lost` reports."""
        self.send_frame(frame(message))

    def send_frame(self, data: bytes) -> None:
        """Queue one encoded frame."""
        if self._transport is not None:
            self._transport.write(data)

    def close(self) -> None:
        """Hang up."""
        if self._transport is not None:
            self._transport.close()
