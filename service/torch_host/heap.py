"""Heap: returns freed memory to the system once the models that held it are idle."""

import ctypes
import time
from collections.abc import Callable
from typing import Final

REST_S: Final = 2.0
"""Idle time of a model before a trim: one that soon works again would need the memory again."""

EVERY_S: Final = 5.0
"""Shortest time between two trims: each walks the whole heap while other models may work."""


def trim() -> None:
    """Return all free pages of the heap to the system, where the C library is glibc."""
    release = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if release is not None:
        release(ctypes.c_size_t(0))


class Heap:
    """Decides when to trim.

    The host's allocator keeps what a step freed, since the next step needs it again, and so it
    also keeps the state of a burst of requests.
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
        """Model → when it became idle; only models that have freed memory since the last trim."""
        self._trimmed_s = -EVERY_S

    def __repr__(self) -> str:
        return f"<Heap to trim after {', '.join(self._resting_since_s) or 'nobody'}>"

    def rests(self, model_id: str) -> None:
        """Note that a model has become idle."""
        self._resting_since_s[model_id] = self._clock_s()

    def works(self, model_id: str) -> None:
        """Note that a model has become busy."""
        self._resting_since_s.pop(model_id, None)

    @property
    def due_in_s(self) -> float | None:
        """Seconds until the next trim; None if there is nothing to return."""
        if not self._resting_since_s:
            return None
        rested_s = min(self._resting_since_s.values()) + REST_S
        return max(0.0, max(rested_s, self._trimmed_s + EVERY_S) - self._clock_s())

    def release(self) -> None:
        """Trim at once, after a model was unloaded."""
        self._trim()
        self._trimmed_s = self._clock_s()

    def tidy(self) -> None:
        """Trim if it is due."""
        if self._resting_since_s and self.due_in_s == 0:
            self._trim()
            self._trimmed_s = self._clock_s()
            self._resting_since_s.clear()
