"""Whether an engine has stopped to work although requests run: told of signs of life, no clock."""

import asyncio
import time
from collections.abc import Callable
from typing import Final

from msgspec import Struct

PATIENCE: Final = 10
"""How many times longer an engine may take that loads a model, or runs one for the first time."""

LOOKS: Final = 8
"""How often an engine is looked at within the time that makes it stalled."""

LONGEST_LOOK_S: Final = 1.0


class Work(Struct, frozen=True, kw_only=True):
    """What an engine has to do at one moment."""

    requests: int = 0
    """Requests that wait or run."""
    calls: int = 0
    """Loads and questions that it has not answered, for which it makes no steps."""
    new: bool = False
    """Whether it loads a model or has requests for one that never answered: that may compile."""


class StallWatch:
    """Adds up how long an engine was silent, and how long it made no step, while it had work.

    Only time between two looks counts, and of that no more than two looks should be apart: a
    service that was itself stopped does not take its engines for stalled.
    """

    def __init__(self, stall_s: float) -> None:
        """Begin a life of an engine that is stalled after *stall_s* seconds."""
        self.stall_s = stall_s
        self.look_s = min(LONGEST_LOOK_S, stall_s / LOOKS)
        """Seconds between two looks, and between two signs of life."""
        self.silent_s = 0.0
        """For how long nothing was heard."""
        self.stuck_s = 0.0
        """For how long no step was made."""
        self._looked_s: float | None = None

    def __repr__(self) -> str:
        return f"<StallWatch silent {self.silent_s:.1f} s, stuck {self.stuck_s:.1f} s>"

    def heard(self) -> None:
        """It said something."""
        self.silent_s = 0.0

    def stepped(self) -> None:
        """It made a step, or said that it has none to make."""
        self.silent_s = self.stuck_s = 0.0

    def look(self, now_s: float, work: Work) -> str | None:
        """What it has failed to do for too long, as `made no step for 60 s`; None if nothing."""
        gap_s = 0.0 if self._looked_s is None else min(now_s - self._looked_s, 2 * self.look_s)
        self._looked_s = now_s
        self.silent_s = self.silent_s + gap_s if work.requests or work.calls else 0.0
        self.stuck_s = self.stuck_s + gap_s if work.requests else 0.0
        limit_s = self.stall_s * PATIENCE if work.new else self.stall_s
        if self.silent_s >= limit_s:
            return f"said nothing for {limit_s:g} s"
        if self.stuck_s >= limit_s:
            return f"made no step for {limit_s:g} s"
        return None


async def keep_watch(
    watch: StallWatch, work: Callable[[], Work], stalled: Callable[[str], None]
) -> None:
    """Look until the engine is stalled, then say so once; cancel it when the engine has ended."""
    while (failing := watch.look(time.monotonic(), doing := work())) is None:  # noqa: ASYNC110  silence sets no event
        await asyncio.sleep(watch.look_s)
    stalled(f"{failing} while {_described(doing)}")


def _described(work: Work) -> str:
    if work.requests:
        return f"{work.requests} request{'s' if work.requests > 1 else ''} waited or ran"
    return "it was asked to load or to tokenize"
