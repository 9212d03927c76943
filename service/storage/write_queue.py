"""Items of the record writer's queue: rows, flushes between them, and the end."""

import asyncio
import contextlib
import sys
import typing

import msgspec
from msgspec import Struct

from service.core.record import RequestRecord

#: Memory of a record without its texts, measured generously.
_ROW_BYTES = 2048
_TEXTS = tuple(
    name
    for name, kind in typing.get_type_hints(RequestRecord).items()
    if str in {kind, *typing.get_args(kind)}
)


class Row(Struct, frozen=True):
    """A record to write, and the memory that it holds."""

    record: RequestRecord
    bytes: int


class Flush(Struct, frozen=True):
    """Waits until everything before it is on disk."""

    loop: asyncio.AbstractEventLoop
    done: asyncio.Future[None]

    def settle(self, error: Exception | None = None) -> None:
        """Wake the waiter; called from the writer's thread."""
        # The loop may have ended meanwhile, and its waiters with it.
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self._settle, error)

    def _settle(self, error: Exception | None) -> None:
        if self.done.done():
            return
        if error is None:
            self.done.set_result(None)
        else:
            self.done.set_exception(error)


class Stop(Struct, frozen=True):
    """Ends the thread once everything before it is on disk."""


def held_bytes(record: RequestRecord) -> int:
    """Memory that a record holds, its texts as the interpreter stores them."""
    texts = sum(sys.getsizeof(getattr(record, name)) for name in _TEXTS)
    sampling = len(msgspec.json.encode(record.sampling)) if record.sampling else 0
    return _ROW_BYTES + texts + sampling


def refusable(record: RequestRecord) -> bool:
    """True if nothing has been promised to the client yet."""
    return record.phase == "accepted" or record.status == "refused"
