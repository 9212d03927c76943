"""Gives freed memory back to the system once the models that held it rest."""

import ctypes
import time
from collections.abc import Callable
from typing import Final

REST_S: Final = 2.0
"""How long a model must have had no requests: one that soon works again would take it back."""

EVERY_S: Final = 5.0
"""Shortest time between two trims: each goes through the whole heap, and others may be at work."""


def trim() -> None:
    """Return all free pages of the heap; nothing where the C library is not glibc."""
    release = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if release is not None:
        release(ctypes.c_size_t(0))


class Heap:
    """Decides when to trim.

    The host's allocator keeps what a step freed, since the next step needs it again
    (`host_process`), and so it also keeps the state of the requests of a burst.
    """

    def __init__(
        self,
        trim: Callable[[], None] = trim,
        *,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._trim = trim
        self._clock_s = clock_s
        self._resting_since_s: dict[str, float] = {}
        """Models that have rested since they last freed anything."""
        self._trimmed_s = -EVERY_S

    def __repr__(self) -> str:
        """Show who rests."""
        return f"<Heap to trim after {', '.join(self._resting_since_s) or 'nobody'}>"

    def rests(self, model_id: str) -> None:
        """A model has freed its last request's state."""
        self._resting_since_s[model_id] = self._clock_s()

    def works(self, model_id: str) -> None:
        """A model has a request again."""
        self._resting_since_s.pop(model_id, None)

    @property
    def due_in_s(self) -> float | None:
        """How long until the next trim, None if there is nothing to give back."""
        if not self._resting_since_s:
            return None
        rested_s = min(self._resting_since_s.values()) + REST_S
        return max(0.0, max(rested_s, self._trimmed_s + EVERY_S) - self._clock_s())

    def release(self) -> None:
        """Trim at once: a model has gone, and others wait for its memory."""
        self._trim()
        self._trimmed_s = self._clock_s()

    def tidy(self) -> None:
        """Trim if it is time."""
        if self._resting_since_s and self.due_in_s == 0:
            self._trim()
            self._trimmed_s = self._clock_s()
            self._resting_since_s.clear()
