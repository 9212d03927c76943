"""Reachability of another server, as the last attempts found it."""

import time
from collections.abc import Callable
from typing import Final

FAILED_ATTEMPTS: Final = 3
"""Attempts in a row without a response, after which the server counts as out of reach."""

REST_S: Final = 10.0
"""How long it then counts as such; afterwards routes may try it again."""


class Reachability:
    """Counts attempts without a response; any response resets the count."""

    def __init__(self, server: str, *, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._server = server
        self._clock_s = clock_s
        self._failures = 0
        self._failed_at_s = 0.0
        self._reason = ""

    def reached(self) -> None:
        """Record a response."""
        self._failures = 0

    def failed(self, reason: str) -> None:
        """Record an attempt without a response; clients may read the reason."""
        self._failures += 1
        self._failed_at_s = self._clock_s()
        self._reason = reason

    def trouble(self) -> str | None:
        """Say why the server is out of reach, None if it is not known to be."""
        if self._failures < FAILED_ATTEMPTS or self._clock_s() - self._failed_at_s > REST_S:
            return None
        return f"{self._server} could not be reached {self._failures} times: {self._reason}"
