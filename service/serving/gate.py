"""A gate that many requests pass together, or one passes alone."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress


class Gate:
    """Lets ordinary requests through together and an isolated one alone.

    First come, first served: a newcomer never overtakes somebody who waits, so neither kind can
    starve the other. Cancelling a waiter takes it out of the queue.
    """

    def __init__(self) -> None:
        self._inside = 0
        self._alone = False
        self._waiting: deque[tuple[asyncio.Future[None], bool]] = deque()

    def __repr__(self) -> str:
        return f"<Gate inside={self._inside} alone={self._alone} waiting={len(self._waiting)}>"

    @asynccontextmanager
    async def shared(self) -> AsyncIterator[None]:
        """Pass beside others."""
        await self._enter(alone=False)
        try:
            yield
        finally:
            self._leave()

    @asynccontextmanager
    async def exclusive(self) -> AsyncIterator[None]:
        """Pass when everybody has left, and keep everybody out meanwhile."""
        await self._enter(alone=True)
        try:
            yield
        finally:
            self._leave()

    async def _enter(self, *, alone: bool) -> None:
        if not self._waiting and self._may_pass(alone=alone):
            self._pass(alone=alone)
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append((turn, alone))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # admitted and cancelled in the same step
                self._leave()
            else:
                with suppress(ValueError):  # `_admit` may have met it first
                    self._waiting.remove((turn, alone))
                self._admit()  # those behind may have waited for this one only
            raise

    def _may_pass(self, *, alone: bool) -> bool:
        return not self._alone and not (alone and self._inside)

    def _pass(self, *, alone: bool) -> None:
        self._inside += 1
        self._alone = alone

    def _leave(self) -> None:
        self._inside -= 1
        self._alone = False
        self._admit()

    def _admit(self) -> None:
        while self._waiting and self._may_pass(alone=self._waiting[0][1]):
            turn, alone = self._waiting.popleft()
            if not turn.cancelled():
                self._pass(alone=alone)
                turn.set_result(None)
