"""Polling for conditions, with a time limit that fails the test."""

import asyncio
import time
from collections.abc import Callable


async def until(condition: Callable[[], object], limit_s: float = 60.0) -> None:
    """Return once *condition* holds; raises TimeoutError after *limit_s* seconds."""
    async with asyncio.timeout(limit_s):
        while not condition():  # noqa: ASYNC110 (what is waited for sets no event)
            await asyncio.sleep(0.001)


def wait_until(condition: Callable[[], object], limit_s: float = 60.0) -> None:
    """Block until *condition* holds; raises TimeoutError after *limit_s* seconds."""
    deadline_s = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"nothing came of it within {limit_s:g} s")
        time.sleep(0.001)
