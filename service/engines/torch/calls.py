"""Calls to the torch host that get one reply each, and the errors that it replies with."""

import asyncio
import itertools
from collections.abc import Callable, Iterator
from typing import Any, Final

from service.core.errors import EngineFailed, TriptychError
from service.engines.torch.protocol.messages import CallFailed, Question, Reply


class Calls:
    """Calls by id, each with the future of its reply."""

    def __init__(self, send: Callable[[Question], None]) -> None:
        self._send = send
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._ids = itertools.count(1)

    def __len__(self) -> int:
        """Calls without a reply."""
        return len(self._waiting)

    async def ask(self, question: Callable[[int], Question]) -> Any:  # noqa: ANN401
        """Send the question made for a new call id; its reply, or raise its error.

        Raises InvalidRequest for a question that is too large to send.
        """
        call_id = next(self._ids)
        reply = self._waiting[call_id] = asyncio.get_running_loop().create_future()
        try:
            self._send(question(call_id))
            return await reply
        finally:
            del self._waiting[call_id]

    def answer(self, reply: Reply) -> None:
        """Pass a reply to its call; dropped if nobody waits for it any more."""
        waiting = self._waiting.get(reply.call_id)
        if waiting is None or waiting.done():
            return
        if isinstance(reply, CallFailed):
            waiting.set_exception(error_named(reply.code, reply.message, reply.param))
        else:
            waiting.set_result(reply)

    def fail(self, error: TriptychError) -> None:
        """Fail all calls: the process is gone."""
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(error)


def error_named(code: str, message: str, param: str | None) -> TriptychError:
    """The error with a code of `service.core.errors`; EngineFailed for an unknown one."""
    error = _ERRORS.get(code, EngineFailed)(message)
    error.param = param
    return error


def _with_subclasses(root: type[TriptychError]) -> Iterator[type[TriptychError]]:
    yield root
    for child in root.__subclasses__():
        yield from _with_subclasses(child)


_ERRORS: Final = {kind.code: kind for kind in _with_subclasses(TriptychError)}
