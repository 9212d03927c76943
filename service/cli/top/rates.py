"""Rates over a sliding window of counter readings."""

from collections import deque
from collections.abc import Mapping
from typing import Final

WINDOW_S: Final = 5.0
"""Rates are means over this time: long enough to be read, short enough to follow."""


class Rates:
    """Counter readings of the window, and their increase per second."""

    def __init__(self, window_s: float = WINDOW_S) -> None:
        self._window_s = window_s
        self._readings: deque[tuple[float, Mapping[str, float]]] = deque()

    def __repr__(self) -> str:
        return f"<Rates of {len(self._readings)} readings>"

    def take(self, at_s: float, counters: Mapping[str, float]) -> None:
        """Add a reading. A counter that fell means a restart: earlier readings are dropped."""
        if self._readings:
            _, latest = self._readings[-1]
            if any(counters.get(name, 0.0) < value for name, value in latest.items()):
                self._readings.clear()
        self._readings.append((at_s, counters))
        # One reading at or before the window's start stays: the rate is over the whole window.
        while len(self._readings) > 2 and self._readings[1][0] <= at_s - self._window_s:  # noqa: PLR2004
            self._readings.popleft()

    def forget(self) -> None:
        """Drop all readings, after a gap such as a restart of the service."""
        self._readings.clear()

    def of(self, name: str) -> float | None:
        """Increase per second of a counter; None before the second reading."""
        if len(self._readings) < 2:  # noqa: PLR2004
            return None
        (begin_s, first), (end_s, last) = self._readings[0], self._readings[-1]
        if end_s <= begin_s:
            return None
        return (last.get(name, 0.0) - first.get(name, 0.0)) / (end_s - begin_s)
