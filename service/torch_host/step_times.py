"""How long a model's next step will take, learned from its last ones: pure arithmetic."""

import math
from typing import Final

KEPT: Final = 0.9
"""How much a step still counts after the next one: about ten steps are remembered."""

LEAST_SHARE: Final = 0.25
"""Least share of a step's time that is taken to grow with its size, however the last steps lie."""

SPREAD: Final = 0.05
"""Sizes that differ by less than this, relative to their mean, do not tell how time grows."""


class Trend:
    """Duration of a step against its size in tokens or rows: a line through the latest steps.

    A step that streams all weights takes a while whatever its size, so a share of the time is
    fixed: durations of small steps alone would make large ones look longer than they are. The line
    is that of least squares, in which each step counts `KEPT` times as much as the one after it.
    """

    __slots__ = ("_duration_ns", "_products", "_size", "_squares", "_weight")

    def __init__(self) -> None:
        self._weight = 0.0
        self._size = 0.0
        self._duration_ns = 0.0
        self._squares = 0.0
        self._products = 0.0

    def __repr__(self) -> str:
        """Show the line."""
        fixed_ns, slope_ns = self._line()
        return f"<Trend {fixed_ns:.0f} ns + {slope_ns:.0f} ns × size>"

    @property
    def mean_size(self) -> float | None:
        """Mean size of the latest steps, None before the first."""
        return self._size / self._weight if self._weight else None

    @property
    def mean_duration_ns(self) -> float | None:
        """Mean duration of the latest steps, None before the first."""
        return self._duration_ns / self._weight if self._weight else None

    @property
    def mean_unit_ns(self) -> float | None:
        """Duration of the latest steps for each unit of their size, None before the first."""
        return self._duration_ns / self._size if self._weight else None

    def observe(self, size: int, duration_ns: int) -> None:
        """Learn from a step."""
        self._weight = self._weight * KEPT + 1
        self._size = self._size * KEPT + size
        self._duration_ns = self._duration_ns * KEPT + duration_ns
        self._squares = self._squares * KEPT + size * size
        self._products = self._products * KEPT + size * duration_ns

    def duration_ns(self, size: int) -> float:
        """How long a step of this size will take at most; 0 while nothing is known.

        A smaller step than the latest ones takes no longer than they did, and perhaps no less.
        """
        fixed_ns, slope_ns = self._line()
        if not fixed_ns:  # nothing tells how much of the time is fixed
            size = max(size, math.ceil(self.mean_size or 0))
        return fixed_ns + slope_ns * size

    def size_within(self, duration_ns: float) -> int | None:
        """Largest step that takes no longer than this; 0 if none does, None for any size."""
        fixed_ns, slope_ns = self._line()
        if math.isinf(duration_ns) or not slope_ns:
            return None
        return max(0, int((duration_ns - fixed_ns) / slope_ns))

    def _line(self) -> tuple[float, float]:
        """Fixed time, and time for each unit of size."""
        size, duration_ns = self.mean_size, self.mean_duration_ns
        if size is None or duration_ns is None:
            return 0.0, 0.0
        proportional = duration_ns / size
        variance = self._squares / self._weight - size * size
        if variance <= (SPREAD * size) ** 2:
            return 0.0, proportional
        slope = (self._products / self._weight - size * duration_ns) / variance
        slope = min(max(slope, LEAST_SHARE * proportional), proportional)
        return duration_ns - slope * size, slope


class Pace:
    """One model's pace: what chunks of prompts and decode steps cost it."""

    __slots__ = ("decode", "prefill")

    def __init__(self) -> None:
        self.prefill = Trend()
        """Against tokens of the chunk."""
        self.decode = Trend()
        """Against requests of the step."""

    def __repr__(self) -> str:
        """Show both lines."""
        return f"<Pace prefill {self.prefill!r}, decode {self.decode!r}>"
