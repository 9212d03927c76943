"""AnswerText: incremental UTF-8 decoding of sampled tokens, with exact stop strings."""

import codecs
from collections.abc import Sequence


class AnswerText:
    """The text of one answer as it grows.

    A character split over tokens is held back until it is complete, and text that may begin a stop
    string until it cannot. The answer ends before the stop string whose last character comes first,
    the longest of those: so the result does not depend on how tokens split the text.
    """

    __slots__ = ("_decoder", "_held", "_stop", "_strip_space", "stopped")

    def __init__(self, stop: Sequence[str] = (), *, strip_leading_space: bool = False) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        self._stop = tuple(string for string in stop if string)
        self._strip_space = strip_leading_space
        self.stopped = False
        """Whether a stop string has occurred."""

    def push(self, data: bytes, *, watch: bool = True) -> str:
        """Append bytes; return the text that is now final. `watch` false ignores stop strings."""
        if self._strip_space and data:
            data = data.removeprefix(b" ")
            self._strip_space = False
        text = self._decoder.decode(data)
        if not self._stop or not (text or self._held):
            return text
        if not watch:
            text, self._held = self._held + text, ""
            return text
        return self._release(self._held + text)

    def finish(self) -> str:
        """Return the text that was held back; an incomplete character becomes U+FFFD."""
        if self.stopped:
            return ""
        text = self._decoder.decode(b"", final=True)
        if not self._stop:
            return text
        certain = self._release(self._held + text)
        if not self.stopped:
            certain, self._held = certain + self._held, ""
        return certain

    def _release(self, text: str) -> str:
        ends = [
            (start + len(stop), start) for stop in self._stop if (start := text.find(stop)) >= 0
        ]
        if ends:
            self.stopped, self._held = True, ""
            return text[: min(ends)[1]]
        held = self._held_length(text)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]

    def _held_length(self, text: str) -> int:
        longest = min(len(text), max(map(len, self._stop)) - 1)
        for length in range(longest, 0, -1):
            tail = text[-length:]
            if any(stop.startswith(tail) for stop in self._stop):
                return length
        return 0
