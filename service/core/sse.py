"""Incremental reader of server-sent events: bytes in, the data of complete events out.

Follows WHATWG HTML, section 9.2.6. Lines end at LF, CR or CRLF and nowhere else: JSON text may hold
U+2028 and U+0085, at which readers of text lines split too.
"""

import re
from typing import Final

LARGEST_EVENT_BYTES: Final = 16 * 2**20

_LINE_END: Final = re.compile(rb"\r\n|\n|\r")
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"


class SseReader:
    """Reads one stream. Comments, fields other than `data` and events without data are skipped."""

    def __init__(self, *, largest_event_bytes: int = LARGEST_EVENT_BYTES) -> None:
        self._largest_event_bytes = largest_event_bytes
        self._line = bytearray()
        """The line that has not ended yet."""
        self._data: list[bytes] = []
        self._data_bytes = 0
        self._after_cr = False
        """The last byte was a CR: an LF that follows belongs to the same line end."""
        self._first_line = True

    def push(self, received: bytes) -> list[bytes]:
        """Return the data of every event that ends in *received*.

        Raises ValueError for an event longer than the limit.
        """
        if not received:
            return []
        if self._after_cr:
            received = received.removeprefix(b"\n")
        self._after_cr = received.endswith(b"\r")
        *ended, rest = _LINE_END.split(received)
        events = []
        for end in ended:
            self._line += end
            self._check_length()
            line = bytes(self._line)
            self._line.clear()
            if self._first_line:
                self._first_line = False
                line = line.removeprefix(_BYTE_ORDER_MARK)
            if line:
                self._take_field(line)
            elif self._data:
                events.append(b"\n".join(self._data))
                self._data.clear()
                self._data_bytes = 0
        self._line += rest
        self._check_length()
        return events

    def _take_field(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        if name == b"data":
            value = value.removeprefix(b" ")
            self._data.append(value)
            self._data_bytes += len(value)

    def _check_length(self) -> None:
        if self._data_bytes + len(self._line) > self._largest_event_bytes:
            raise ValueError(f"an event is longer than {self._largest_event_bytes} bytes")
