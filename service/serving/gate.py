"""Gate: ordinary requests pass together, an isolated measurement passes alone, as a guest.

Times are seconds of the running loop's clock.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from service.core.errors import MachineBusy

MAX_STALL_S: Final = 10.0
MAX_SHARE: Final = 0.5
#: Share of the stall in which the gate may be closed for a guest that still waits; the rest is for
#: its run.
WAITING_SHARE: Final = 0.5


@dataclass(eq=False, slots=True)
class Isolation:
    """An isolated pass, and whether it was disturbed."""

    beside_requests: bool = False
    """Requests that had waited for `max_stall_s` were let in beside it."""
    beside_background: bool = False
    """A model was loaded or files were hashed meanwhile."""


@dataclass(eq=False, slots=True)
class _Held:
    """A newcomer held back at the closed gate."""

    turn: "asyncio.Future[None]"
    since_s: float
    background: bool


@dataclass(eq=False, slots=True)
class _Guest:
    """An isolated pass that waits or runs."""

    turn: "asyncio.Future[None]"
    isolation: Isolation
    may_close: bool = True
    """Cleared once newcomers have been held back for it as long as they may be."""


class Gate:
    """Admits ordinary passes together and an isolated pass, the guest, alone.

    - An ordinary pass is held back for at most `max_stall_s`; then it enters, beside the guest if
      need be.
    - A guest enters only when no ordinary pass is inside. Newcomers are held back for it once, for
      half of `max_stall_s`; after that it waits for a moment at which nobody is inside.
    - When a guest leaves, everybody held back enters before the next guest. The gate then stays
      open long enough that guests hold newcomers back for at most `max_share` of the time.
    - Background work (loads, hashing) keeps no guest from entering, and waits for one inside.

    Cancelling a waiter removes it from its queue.
    """

    def __init__(self, *, max_stall_s: float = MAX_STALL_S, max_share: float = MAX_SHARE) -> None:
        self._max_stall_s = max_stall_s
        self._max_share = max_share
        self._inside = 0
        self._background = 0
        self._alone: Isolation | None = None
        self._held: deque[_Held] = deque()
        self._guests: deque[_Guest] = deque()
        self._open_until_s = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        alone = self._alone is not None
        waiting = len(self._held) + len(self._guests)
        return f"<Gate inside={self._inside + alone} alone={alone} waiting={waiting}>"

    @property
    def works_in_background(self) -> bool:
        """True while a model is loaded or files are hashed."""
        return self._background > 0

    @asynccontextmanager
    async def shared(self) -> AsyncIterator[None]:
        """Pass beside others."""
        if self._closed:
            await self._hold_back(background=False)
        else:
            self._inside += 1
        try:
            yield
        finally:
            self._leave()

    @asynccontextmanager
    async def background(self) -> AsyncIterator[None]:
        """Pass without keeping a guest from entering: for work that is no request's."""
        if self._alone is not None and not self._alone.beside_requests:
            await self._hold_back(background=True)
        self._background += 1
        if self._alone is not None:
            self._alone.beside_background = True
        try:
            yield
        finally:
            self._background -= 1

    @asynccontextmanager
    async def exclusive(self, *, max_wait_s: float) -> AsyncIterator[Isolation]:
        """Pass alone. Raises MachineBusy if that is impossible within *max_wait_s*."""
        isolation = await self._enter_alone(max_wait_s)
        try:
            yield isolation
        finally:
            self._leave_alone()

    async def _hold_back(self, *, background: bool) -> None:
        loop = asyncio.get_running_loop()
        held = _Held(loop.create_future(), loop.time(), background)
        self._held.append(held)
        self._advance()
        try:
            await held.turn
        except asyncio.CancelledError:
            if not held.turn.cancelled():  # admitted and cancelled in the same step
                self._inside -= not background
            elif held in self._held:  # `_let_in` may have met it first
                self._held.remove(held)
            self._advance()
            raise

    async def _enter_alone(self, max_wait_s: float) -> Isolation:
        guest = _Guest(asyncio.get_running_loop().create_future(), Isolation())
        self._guests.append(guest)
        self._advance()
        try:
            async with asyncio.timeout(max_wait_s):
                await guest.turn
        except (asyncio.CancelledError, TimeoutError) as error:
            busy = self._busy(max_wait_s)
            if guest in self._guests:
                self._guests.remove(guest)
                self._advance()
            else:  # admitted and cancelled in the same step
                self._leave_alone()
            if isinstance(error, TimeoutError):
                raise busy from None
            raise
        return guest.isolation

    def _busy(self, max_wait_s: float) -> MachineBusy:
        return MachineBusy(
            "An isolated comparison runs while nothing else does, and there was no such moment "
            f"within {max_wait_s:g} s ({self._inside} running, {len(self._guests)} waiting to run "
            'alone). Try again later, or compare with `"mode": "concurrent"`.',
            retry_after_s=max(1.0, max_wait_s),
        )

    def _leave(self) -> None:
        self._inside -= 1
        self._advance()

    def _leave_alone(self) -> None:
        self._alone = None
        self._let_in()
        self._advance()

    @property
    def _closed(self) -> bool:
        """True while newcomers are held back."""
        if self._alone is not None:
            return not self._alone.beside_requests
        return bool(self._guests) and self._guests[0].may_close and not self._rests

    @property
    def _rests(self) -> bool:
        """True while guests have used up their share of the time."""
        return asyncio.get_running_loop().time() < self._open_until_s

    def _advance(self) -> None:
        """Admit whoever may enter now, and look again when time alone changes that."""
        if self._guests and self._alone is None and not self._inside and not self._rests:
            guest = self._guests.popleft()
            self._alone = guest.isolation
            self._alone.beside_background = self._background > 0
            if not guest.turn.done():
                guest.turn.set_result(None)
        if self._held and self._closed and self._stall_ends_s <= self._now_s:
            if self._alone is not None:
                self._alone.beside_requests = True
            else:
                self._guests[0].may_close = False
        if not self._closed:
            self._let_in()
        self._set_timer()

    def _let_in(self) -> None:
        """Admit everyone held back, and keep the gate open in proportion to their wait."""
        if self._held:
            lost_s = self._now_s - self._held[0].since_s
            self._open_until_s = self._now_s + lost_s * (1 / self._max_share - 1)
        while self._held:
            held = self._held.popleft()
            if not held.turn.done():
                self._inside += not held.background
                held.turn.set_result(None)

    @property
    def _now_s(self) -> float:
        return asyncio.get_running_loop().time()

    @property
    def _stall_ends_s(self) -> float:
        """Time at which the longest held back are admitted, even beside the guest."""
        share = 1.0 if self._alone is not None else WAITING_SHARE
        return self._held[0].since_s + share * self._max_stall_s

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due_s = None
        if self._held:
            due_s = self._stall_ends_s
        elif self._guests and self._alone is None and self._rests:
            due_s = self._open_until_s
        if due_s is not None:
            self._timer = asyncio.get_running_loop().call_at(due_s, self._advance)
