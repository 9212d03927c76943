"""Watchdog: detects an engine that makes no progress while it has work."""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final

from msgspec import Struct

PATIENCE: Final = 10
"""Factor on the limit where long steps are to be expected."""

LOOKS: Final = 8
"""Checks within the time limit."""

LONGEST_LOOK_S: Final = 1.0

log = logging.getLogger(__name__)


class Workload(Struct, frozen=True, kw_only=True):
    """Snapshot of an engine's pending work."""

    requests: int = 0
    """Requests that wait or run."""
    calls: int = 0
    """Unanswered loads, unloads and calls, which take no steps."""
    slow_steps: bool = False
    """Long steps are to be expected: it loads, compiles, or prefills where that cannot be seen."""


class Watchdog:
    """Measures how long an engine with work has been silent, and how long without a step.

    It adds up the time between its own checks, each gap capped at two intervals: a service that
    was itself stopped does not take its engines for stalled.
    """

    def __init__(self, stall_s: float) -> None:
        """Watch one life of an engine, which is stalled after *stall_s* seconds."""
        self.stall_s = stall_s
        self.look_s = min(LONGEST_LOOK_S, stall_s / LOOKS)
        """Seconds between two checks, and between two heartbeats."""
        self.silent_s = 0.0
        """Time since the engine was last heard of."""
        self.stuck_s = 0.0
        """Time since its last step."""
        self._looked_s: float | None = None

    def __repr__(self) -> str:
        return f"<Watchdog silent {self.silent_s:.1f} s, stuck {self.stuck_s:.1f} s>"

    def heard(self) -> None:
        """Note a heartbeat."""
        self.silent_s = 0.0

    def stepped(self) -> None:
        """Note a step, or that there is none to make."""
        self.silent_s = self.stuck_s = 0.0

    def look(self, now_s: float, work: Workload) -> str | None:
        """Check once; the failure, as `made no step for 60 s`, or None."""
        gap_s = 0.0 if self._looked_s is None else min(now_s - self._looked_s, 2 * self.look_s)
        self._looked_s = now_s
        self.silent_s = self.silent_s + gap_s if work.requests or work.calls else 0.0
        self.stuck_s = self.stuck_s + gap_s if work.requests else 0.0
        limit_s = self.stall_s * PATIENCE if work.slow_steps else self.stall_s
        if self.silent_s >= limit_s:
            return f"sent no heartbeat for {limit_s:g} s"
        if self.stuck_s >= limit_s:
            return f"made no step for {limit_s:g} s"
        return None

    async def watch(
        self, workload: Callable[[], Workload], on_stall: Callable[[str], None]
    ) -> None:
        """Check until the engine is stalled, and report that once; cancel when it has ended."""
        try:
            while (failure := self.look(time.monotonic(), work := workload())) is None:  # noqa: ASYNC110  silence sets no event
                await asyncio.sleep(self.look_s)
            on_stall(f"{failure} while {_described(work)}")
        except Exception:
            log.exception("the watchdog failed; a hanging engine would not be detected")


def _described(work: Workload) -> str:
    if work.requests:
        return f"{work.requests} request{'s' if work.requests > 1 else ''} waited or ran"
    return "it had loads, unloads or tokenization to do"
