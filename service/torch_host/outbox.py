"""Outbox: sends frames to the service from whichever thread has them."""

import asyncio
import socket
import threading
from collections.abc import Iterable
from typing import Final

_MOST_AT_ONCE: Final = 2**18
"""Bytes of the backlog that one call of the socket is given."""


class Outbox:
    """Writes frames to a connected socket at once, and in order; never blocks.

    A token would otherwise wait for the event loop's thread, which needs a core and the
    interpreter's lock while the engine's threads hold both. What the socket does not take is kept
    and written by the event loop. Frames are dropped once the peer is gone.
    """

    def __init__(self, connection: socket.socket, loop: asyncio.AbstractEventLoop) -> None:
        """Write to *connection*, which *loop* may read meanwhile."""
        # A descriptor of its own: a transport of the loop watches the other one.
        self._socket = connection.dup()
        self._socket.setblocking(False)
        self._loop = loop
        self._backlog = bytearray()
        self._gone = False
        self._turn = threading.Lock()

    @property
    def backlog_bytes(self) -> int:
        """Bytes that the socket has not taken yet."""
        return len(self._backlog)

    def send(self, frames: Iterable[bytes]) -> None:
        """Send frames without others between them; callable from any thread."""
        with self._turn:
            for frame in frames:
                if self._gone:
                    return
                waiting = bool(self._backlog)
                sent = 0 if waiting else self._write(frame)
                if sent == len(frame) or self._gone:
                    continue
                self._backlog += memoryview(frame)[sent:]
                if not waiting:
                    self._loop.call_soon_threadsafe(self._watch)

    def close(self) -> None:
        """Stop sending; call it on the event loop."""
        with self._turn:
            self._end()
            if self._socket.fileno() >= 0:
                self._loop.remove_writer(self._socket)
                self._socket.close()

    def _watch(self) -> None:
        if not self._gone:
            self._loop.add_writer(self._socket, self._flush)

    def _flush(self) -> None:
        with self._turn:
            if not self._gone:
                del self._backlog[: self._write(self._backlog[:_MOST_AT_ONCE])]
            if not self._backlog:
                self._loop.remove_writer(self._socket)

    def _write(self, data: bytes | bytearray) -> int:
        """Write what the socket takes; the number of bytes."""
        try:
            return self._socket.send(data)
        except BlockingIOError:
            return 0
        except OSError:  # the loop's reader learns of the loss, and ends the process
            self._end()
            return 0

    def _end(self) -> None:
        self._gone = True
        self._backlog.clear()
