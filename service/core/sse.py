"""Server-sent events from raw bytes: the data of each, wherever the bytes were cut."""

from collections.abc import Iterator
from typing import Final

LARGEST_EVENT_BYTES: Final = 16 * 2**20


class SseData:
    """Takes bytes as they come and gives the data of every event that they complete.

    Comments, other fields and empty events are passed over (WHATWG HTML, section 9.2.6).
    """

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []

    def push(self, received: bytes) -> Iterator[bytes]:
        """Data of the events that end in these bytes. Raises ValueError for one without end."""
        *lines, self._rest = (self._rest + received).split(b"\n")
        if len(self._rest) > LARGEST_EVENT_BYTES:
            raise ValueError(f"an event is longer than {LARGEST_EVENT_BYTES} bytes")
        for line in lines:
            stripped = line.removesuffix(b"\r")
            if stripped.startswith(b"data:"):
                self._data.append(stripped[5:].removeprefix(b" "))
            elif not stripped and self._data:
                yield b"\n".join(self._data)
                self._data.clear()
