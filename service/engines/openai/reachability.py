"""Whether another server can be reached, as the last attempts found."""

import time
from collections.abc import Callable
from typing import Final

import aiohttp
import httpx

CONNECTION_ERRORS: Final = (httpx.HTTPError, aiohttp.ClientError)
"""What a connection raises: the transport passes on aiohttp's errors for what is not HTTP."""

FAILED_ATTEMPTS: Final = 3
"""Attempts in a row that brought no response, after which the server counts as out of reach."""

REST_S: Final = 10.0
"""How long it then counts so: afterwards routes may try it again."""


class Reachability:
    """Counts attempts that brought no response; any response forgets them."""

    def __init__(self, server: str, *, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._server = server
        self._clock_s = clock_s
        self._failures = 0
        self._failed_at_s = 0.0
        self._reason = ""

    def reached(self) -> None:
        """A response came."""
        self._failures = 0

    def failed(self, error: Exception) -> None:
        """An attempt brought none."""
        self._failures += 1
        self._failed_at_s = self._clock_s()
        self._reason = describe(error)

    def trouble(self) -> str | None:
        """Why the server is out of reach, None if it is not known to be."""
        if self._failures < FAILED_ATTEMPTS or self._clock_s() - self._failed_at_s > REST_S:
            return None
        return f"{self._server} could not be reached {self._failures} times: {self._reason}"


def describe(error: Exception) -> str:
    """An error in one line; some say nothing but what they are."""
    return " ".join(str(error).split()) or type(error).__name__
