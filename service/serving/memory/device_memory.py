"""The memory of a device: booked before it is taken, and waited for in turn."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

from service.core.errors import DoesNotFit, Overloaded
from service.core.sizes import human_bytes
from service.serving.memory.eviction import (
    Evict,
    Fits,
    Never,
    Resident,
    Wait,
    may_overtake,
    plan,
    refusal,
)

log = logging.getLogger(__name__)

#: When to try again after a full queue: about as long as a small model takes to load.
RETRY_S = 2.0


class Tenant(Protocol):
    """A model that holds memory, as far as memory is concerned."""

    id: str

    def resident(self, held_bytes: int, state_bytes: int) -> Resident:
        """How it stands, with what is booked for it."""

    def make_room(self, reason: str) -> None:
        """Unload as soon as it is idle; others wait for it."""

    def stay(self) -> None:
        """Whoever waited for it has left: go on, unless it is closing already."""


@dataclass(slots=True)
class _Booking:
    tenant: Tenant
    held_bytes: int
    state_bytes: int = 0


class Booked:
    """What is booked for one request, until it is released."""

    __slots__ = ("_booking", "_memory", "_state_bytes")

    def __init__(self, memory: "DeviceMemory", booking: _Booking | None, state_bytes: int) -> None:
        self._memory = memory
        self._booking = booking
        self._state_bytes = 0
        self.correct(state_bytes)

    def correct(self, state_bytes: int) -> None:
        """Book so much instead, also where that is too much: the request already runs."""
        if self._booking is not None:
            change_bytes = state_bytes - self._state_bytes
            self._state_bytes = state_bytes
            self._booking.state_bytes += change_bytes
            self._memory.count(self._booking, change_bytes)

    def release(self) -> None:
        """The request has ended."""
        self.correct(0)


@dataclass(slots=True, eq=False)
class _Waiter:
    tenant: Tenant
    need_bytes: int
    is_load: bool
    turn: "asyncio.Future[Booked]"
    told: dict[str, Tenant] = field(default_factory=dict)
    """Whom it has told to leave."""


class DeviceMemory:
    """Books bytes for models and for requests' state; what does not fit waits, first come first.

    A newcomer overtakes somebody who waits only where it takes nothing from the first. Every call
    but `admit` and the slow way of `book` returns at once.
    """

    def __init__(
        self,
        budget_bytes: int,
        *,
        max_waiting: int = 256,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.budget_bytes = budget_bytes
        self.used_bytes = 0
        self._max_waiting = max_waiting
        self._clock_ns = clock_ns
        self._bookings: dict[str, _Booking] = {}
        self._waiting: deque[_Waiter] = deque()

    def __repr__(self) -> str:
        return (
            f"<DeviceMemory {self.used_bytes} of {self.budget_bytes} bytes, "
            f"{len(self._waiting)} waiting>"
        )

    # Models

    async def admit(self, tenant: Tenant, held_bytes: int) -> None:
        """Book what a model will hold, before it is loaded.

        Raises DoesNotFit, or Overloaded where too many wait already.
        """
        await self._turn(tenant, held_bytes, is_load=True)

    def settle(self, tenant: Tenant, held_bytes: int) -> None:
        """Correct what a model holds, now that it is loaded and measured."""
        booking = self._bookings[tenant.id]
        self.used_bytes += held_bytes - booking.held_bytes
        booking.held_bytes = held_bytes
        if self.used_bytes > self.budget_bytes:
            self._shrink(tenant.id)
        self.changed()

    def vacate(self, tenant: Tenant) -> None:
        """A model's memory is free again, or was never taken."""
        booking = self._bookings.pop(tenant.id, None)
        if booking is not None:
            self.used_bytes -= booking.held_bytes + booking.state_bytes
            self.changed()

    # Requests

    def try_book(self, tenant: Tenant, state_bytes: int) -> Booked | None:
        """Book a request's state if that is possible at once, the quick way; else None."""
        booking = self._bookings.get(tenant.id)
        if booking is None or not state_bytes:
            return Booked(self, None, 0)  # nobody knows what this model holds, or it adds nothing
        if self._waiting or self.used_bytes + state_bytes > self.budget_bytes:
            return None
        return Booked(self, booking, state_bytes)

    async def book(self, tenant: Tenant, state_bytes: int) -> Booked:
        """Book a request's state, in turn. Raises DoesNotFit or Overloaded."""
        return await self._turn(tenant, state_bytes, is_load=False)

    def count(self, booking: _Booking, change_bytes: int) -> None:
        """A request's booking has changed; of a model that has gone nothing is counted any more."""
        if self._bookings.get(booking.tenant.id) is booking:
            self.used_bytes += change_bytes
            if change_bytes < 0 and self._waiting:
                self.changed()

    # What others may know

    def state_bytes(self, name: str) -> int | None:
        """What is booked for a model's requests; None where nobody counts."""
        booking = self._bookings.get(name)
        return None if booking is None else booking.state_bytes

    def held_bytes(self, name: str) -> int:
        """What is booked for a model at rest, 0 where it does not count."""
        booking = self._bookings.get(name)
        return 0 if booking is None else booking.held_bytes

    def check_together(self, needs: dict[str, int], pinned: frozenset[str]) -> None:
        """Raise DoesNotFit unless all of these fit at once, beside what is pinned."""
        fixed = {
            name: booking.held_bytes
            for name, booking in self._bookings.items()
            if name in pinned and name not in needs
        }
        need_bytes = sum(needs.values())
        if need_bytes + sum(fixed.values()) > self.budget_bytes:
            parts = ", ".join(f"{name} {human_bytes(count)}" for name, count in needs.items())
            raise DoesNotFit(
                f"together these need {human_bytes(need_bytes)} ({parts}), and the memory budget "
                f"is {human_bytes(self.budget_bytes)}, of which pinned models hold "
                f"{human_bytes(sum(fixed.values()))}; ask for fewer at once, one after another, "
                "or raise `memory_budget`"
            )

    def changed(self) -> None:
        """Something became free, idle or unpinned: let in who fits now."""
        for waiter in tuple(self._waiting):
            if waiter.turn.done():
                continue
            first = next(each for each in self._waiting if not each.turn.done())
            if waiter is first:
                self._serve(waiter)
            elif may_overtake(
                waiter.need_bytes, first.need_bytes, self.budget_bytes, self._residents()
            ):
                self._grant(waiter)

    async def _turn(self, tenant: Tenant, need_bytes: int, *, is_load: bool) -> Booked:
        if len(self._waiting) >= self._max_waiting:
            raise Overloaded(
                f"{len(self._waiting)} loads and requests wait for memory; try again later",
                retry_after_s=RETRY_S,
            )
        turn: asyncio.Future[Booked] = asyncio.get_running_loop().create_future()
        waiter = _Waiter(tenant, need_bytes, is_load, turn)
        self._waiting.append(waiter)
        self.changed()
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                turn.result().release()  # granted and cancelled in the same step
                if is_load:
                    self.vacate(tenant)
            for each in waiter.told.values():
                each.stay()
            raise
        finally:
            with suppress(ValueError):
                self._waiting.remove(waiter)
            self.changed()

    def _serve(self, waiter: _Waiter) -> None:
        """Do for the first in the queue what can be done now."""
        residents = self._residents()
        decided = plan(
            waiter.need_bytes,
            self.budget_bytes,
            residents,
            now_ns=self._clock_ns(),
            keep=None if waiter.is_load else waiter.tenant.id,
        )
        match decided:
            case Fits():
                self._grant(waiter)
            case Evict(ids) | Wait(ids):
                for name in ids:
                    tenant = waiter.told[name] = self._bookings[name].tenant
                    tenant.make_room(f"to make room for {waiter.tenant.id}")
            case Never():
                waiter.turn.set_exception(DoesNotFit(self._refusal(waiter, residents, decided)))

    def _grant(self, waiter: _Waiter) -> None:
        booking = self._bookings.get(waiter.tenant.id)
        if not waiter.is_load:
            waiter.turn.set_result(Booked(self, booking, waiter.need_bytes))
            return
        assert booking is None  # a model is loaded once
        self._bookings[waiter.tenant.id] = _Booking(waiter.tenant, waiter.need_bytes)
        self.used_bytes += waiter.need_bytes
        waiter.turn.set_result(Booked(self, None, 0))

    def _refusal(self, waiter: _Waiter, residents: Sequence[Resident], never: Never) -> str:
        who, fix = waiter.tenant.id, "raise `memory_budget`"
        if not waiter.is_load:
            who, fix = f"a request to {who}", f"{fix} or lower `max_tokens`"
        return refusal(who, waiter.need_bytes, self.budget_bytes, residents, never, fix=fix)

    def _shrink(self, keep: str) -> None:
        """More is held than was predicted: whoever is idle makes up for it."""
        decided = plan(0, self.budget_bytes, self._residents(), now_ns=self._clock_ns(), keep=keep)
        log.warning(
            "%s holds more than was predicted: %s are booked of a memory budget of %s",
            keep,
            human_bytes(self.used_bytes),
            human_bytes(self.budget_bytes),
        )
        if isinstance(decided, Evict):
            for name in decided.ids:
                self._bookings[name].tenant.make_room(f"since {keep} holds more than was predicted")

    def _residents(self) -> list[Resident]:
        return [
            each.tenant.resident(each.held_bytes, each.state_bytes)
            for each in self._bookings.values()
        ]
