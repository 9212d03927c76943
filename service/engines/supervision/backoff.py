"""Backoff: the delay before a process that died is started again."""

from typing import Final

STEADY_S: Final = 60.0
"""A life of at least this long resets the delay."""

LONGEST_DELAY_S: Final = 60.0


class Backoff:
    """Exponential delays: 1, 2, 4 … 60 s for deaths in a row."""

    def __init__(self) -> None:
        self.deaths = 0
        """Consecutive deaths without a steady life in between."""

    def died(self, *, after_s: float) -> float:
        """Delay in seconds before the next start, given the length of the life that ended."""
        self.deaths = 1 if after_s >= STEADY_S else self.deaths + 1
        return min(LONGEST_DELAY_S, 2.0 ** (self.deaths - 1))
