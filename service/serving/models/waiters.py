"""Waiters for the load of a model: requests, which then use it, and operators."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from service.core.errors import TriptychError
from service.core.ports import Engine


@dataclass(slots=True, eq=False)
class LoadedEngine:
    """An engine from its load to its close, and how many requests use it."""

    engine: Engine
    users: int = 0


@dataclass(slots=True, eq=False)
class _Waiter:
    turn: "asyncio.Future[LoadedEngine | TriptychError]"
    """A failure is a result too: a waiter that has left leaves no exception unretrieved."""
    uses: bool


class Waiters:
    """Hands the engine, or the error of its load, to everyone who waits."""

    def __init__(self) -> None:
        self._waiters: list[_Waiter] = []

    def __len__(self) -> int:
        return len(self._waiters)

    async def wait(self, begin: Callable[[], None], *, uses: bool) -> LoadedEngine | TriptychError:
        """Enlist, *begin* a load, and wait for its outcome.

        With *uses* the caller counts as a user from the moment of the load. If it is cancelled in
        the very step that grants its turn, the use is given back.
        """
        waiter = _Waiter(asyncio.get_running_loop().create_future(), uses)
        self._waiters.append(waiter)
        try:
            begin()
            return await waiter.turn
        except asyncio.CancelledError:
            if waiter.turn.done() and not waiter.turn.cancelled():
                outcome = waiter.turn.result()
                if uses and isinstance(outcome, LoadedEngine):
                    outcome.users -= 1
            raise
        finally:
            if waiter in self._waiters:
                self._waiters.remove(waiter)

    def grant(self, loaded: LoadedEngine) -> None:
        """Pass the engine to all waiters."""
        for waiter in self._take():
            loaded.users += waiter.uses
            waiter.turn.set_result(loaded)

    def fail(self, error: TriptychError) -> None:
        """Raise the error in all waiters."""
        for waiter in self._take():
            waiter.turn.set_result(error)

    def _take(self) -> list[_Waiter]:
        taken, self._waiters = self._waiters, []
        return [waiter for waiter in taken if not waiter.turn.done()]
