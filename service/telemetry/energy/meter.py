"""EnergyMeter: reads a counter while requests run, and tells each how much it spent."""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final

from service.core.work import Energy
from service.telemetry.energy.apportion import Reading, Window, share_uj
from service.telemetry.energy.counter import CounterUnreadable, EnergyCounter

log = logging.getLogger(__name__)

#: Time between two readings while requests run.
INTERVAL_S: Final = 0.1
#: Readings that are kept: beyond them, what running requests spent so far is settled.
MOST_READINGS: Final = 256


class EnergyMeter:
    """Shares a counter's energy among the requests that this machine computes.

    The counter is read when a request is accepted while none was, every `INTERVAL_S` from then on,
    and at each request's end. For the event loop's thread alone: a reading takes microseconds.
    """

    def __init__(
        self, counter: EnergyCounter, *, clock_ns: Callable[[], int] = time.monotonic_ns
    ) -> None:
        """Read nothing yet."""
        self._counter = counter
        self._clock_ns = clock_ns
        self._waiting: set[str] = set()
        self._running: dict[str, int] = {}  # since when
        self._settled_uj: dict[str, float] = {}
        self._shared: set[str] = set()
        self._ended: list[Window] = []
        self._readings: list[Reading] = []
        self._settled_until_ns = 0
        self._timer: asyncio.TimerHandle | None = None

    def accepted(self, request_id: str) -> None:
        """Begin to read, if this is the only request."""
        self._waiting.add(request_id)
        if self._timer is None:
            self._read()
            self._schedule()

    def began(self, request_id: str, at_ns: int) -> None:
        """Note that a request is being computed since *at_ns*."""
        self._waiting.discard(request_id)
        # What was settled before it was known to run went to others.
        self._running[request_id] = max(at_ns, self._settled_until_ns)

    def ended(self, request_id: str, start_ns: int | None, end_ns: int | None) -> Energy:
        """What a request spent from its first prefill step to *end_ns*, its last token.

        All is None if it was not computed on this machine, if *start_ns* is unknown, or if the
        counter could not be read all the time. An *end_ns* of None is now.
        """
        self._waiting.discard(request_id)
        known_ns = self._running.pop(request_id, None)
        settled_uj = self._settled_uj.pop(request_id, None)
        spent_uj = None
        if known_ns is not None and start_ns is not None:
            start_ns = max(start_ns, self._settled_until_ns) if settled_uj is None else known_ns
            window = Window(start_ns, max(start_ns, end_ns or self._clock_ns()))
            if not self._readings or self._readings[-1].at_ns < window.end_ns:
                self._read()
            others = self._others(request_id)
            spent_uj = share_uj(self._readings, window, others)
            if any(other.overlaps(window) for other in others):
                self._shared.add(request_id)
            self._ended.append(window)
        shared = request_id in self._shared
        self._shared.discard(request_id)
        self._rest()
        if spent_uj is None:
            return Energy()
        return Energy(
            energy_uj=round((settled_uj or 0.0) + spent_uj),
            energy_source=self._counter.source,
            energy_shared=shared,
        )

    def close(self) -> None:
        """Read no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _others(self, request_id: str) -> list[Window]:
        """Windows of all but one request; those that run reach to the last reading."""
        until_ns = self._readings[-1].at_ns if self._readings else 0
        running = (
            Window(start_ns, until_ns)
            for other_id, start_ns in self._running.items()
            if other_id != request_id
        )
        return [*self._ended, *running]

    def _schedule(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(INTERVAL_S, self._tick)

    def _tick(self) -> None:
        self._read()
        if len(self._readings) > MOST_READINGS:
            self._settle()
        self._schedule()

    def _read(self) -> None:
        """Take a reading; one that fails makes all that run unknown."""
        now_ns = self._clock_ns()
        if self._readings and self._readings[-1].at_ns >= now_ns:
            return
        try:
            self._readings.append(Reading(now_ns, self._counter.read_uj()))
        except CounterUnreadable as error:
            if self._readings:
                log.warning("energy cannot be measured: %s", error)
            self._readings.clear()
            self._settled_until_ns = 0

    def _settle(self) -> None:
        """Add up what running requests spent until the last reading, and forget all before it."""
        last = self._readings[-1]
        spent: dict[str, float] = {}
        for request_id, start_ns in self._running.items():
            window = Window(start_ns, last.at_ns)
            others = self._others(request_id)
            share = share_uj(self._readings, window, others)
            if share is not None:
                spent[request_id] = share
                if any(other.overlaps(window) for other in others):
                    self._shared.add(request_id)
        for request_id, share in spent.items():
            self._settled_uj[request_id] = self._settled_uj.get(request_id, 0.0) + share
            self._running[request_id] = last.at_ns
        self._readings = [last]
        self._settled_until_ns = last.at_ns
        self._ended = [window for window in self._ended if window.end_ns > last.at_ns]

    def _rest(self) -> None:
        """Forget all and read no more once no request waits or runs."""
        if self._waiting or self._running:
            return
        self.close()
        self._readings.clear()
        self._ended.clear()
        self._settled_until_ns = 0
