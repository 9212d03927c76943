"""Step-time model: predicts a step's duration from the latest steps; pure arithmetic."""

import math
from typing import Final

KEPT: Final = 0.9
"""Weight that a step keeps with each later step: about ten steps count."""

LEAST_SHARE: Final = 0.25
"""Smallest share of a step's time that is assumed to grow with its size."""

SPREAD: Final = 0.05
"""Relative standard deviation of sizes below which no slope is fitted."""


class StepTimeModel:
    """Duration of one kind of step as a linear function of its size, in tokens or requests.

    Streaming the weights takes a fixed time whatever the size, so a proportional model of small
    steps would overestimate large ones. Fitted by least squares with exponential forgetting: each
    step weighs `KEPT` times as much as the one after it.
    """

    __slots__ = ("_duration_ns", "_products", "_size", "_squares", "_weight")

    def __init__(self) -> None:
        self._weight = 0.0
        self._size = 0.0
        self._duration_ns = 0.0
        self._squares = 0.0
        self._products = 0.0

    def __repr__(self) -> str:
        fixed_ns, slope_ns = self._line()
        return f"<StepTimeModel {fixed_ns:.0f} ns + {slope_ns:.0f} ns × size>"

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
        """Mean duration per token or request of the latest steps, None before the first."""
        return self._duration_ns / self._size if self._weight else None

    def observe(self, size: int, duration_ns: int) -> None:
        """Learn from a step."""
        self._weight = self._weight * KEPT + 1
        self._size = self._size * KEPT + size
        self._duration_ns = self._duration_ns * KEPT + duration_ns
        self._squares = self._squares * KEPT + size * size
        self._products = self._products * KEPT + size * duration_ns

    def duration_ns(self, size: int) -> float:
        """Upper estimate of the duration of a step of this size; 0 before the first step.

        Without a fitted slope, a step smaller than the latest ones is taken to last as long.
        """
        fixed_ns, slope_ns = self._line()
        if not fixed_ns:  # nothing tells how much of the time is fixed
            size = max(size, math.ceil(self.mean_size or 0))
        return fixed_ns + slope_ns * size

    def size_within(self, duration_ns: float) -> int | None:
        """Largest step that takes no longer than this; 0 if none does, None if any does."""
        fixed_ns, slope_ns = self._line()
        if math.isinf(duration_ns) or not slope_ns:
            return None
        return max(0, int((duration_ns - fixed_ns) / slope_ns))

    def _line(self) -> tuple[float, float]:
        """Intercept and slope."""
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


class StepTimes:
    """Step-time models of one model's prefill chunks and decode steps."""

    __slots__ = ("decode", "prefill")

    def __init__(self) -> None:
        self.prefill = StepTimeModel()
        """Over the tokens of the chunk."""
        self.decode = StepTimeModel()
        """Over the requests of the step."""

    def __repr__(self) -> str:
        return f"<StepTimes prefill {self.prefill!r}, decode {self.decode!r}>"
