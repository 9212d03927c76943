"""Messages between the load test and its measuring process: length-prefixed msgpack on pipes."""

import asyncio

import msgspec
from msgspec import Struct

_LENGTH_BYTES = 4


class Send(Struct, frozen=True, kw_only=True, tag="send"):
    """Order: write one HTTP request at its time and report what comes back."""

    key: int
    """Names the exchange in the report."""
    planned_ns: int
    """CLOCK_MONOTONIC."""
    request: bytes
    """The whole request, head and body."""
    timeout_s: float
    """From the moment of dispatch."""


class Measure(Struct, frozen=True, kw_only=True, tag="measure"):
    """Order: report the process's CPU time and loop lag."""


class Exchange(Struct, frozen=True, kw_only=True, tag="exchange"):
    """A request and its answer. Timestamps are nanoseconds of CLOCK_MONOTONIC."""

    key: int
    dispatched_ns: int
    """The request was taken up: later than planned only if this process lagged."""
    sent_ns: int | None
    """Just before the request was written; None if no connection could be opened."""
    head_ns: int | None
    """The answer's status line and headers had been received."""
    status: int | None
    request_id: str | None
    """The answer's `x-request-id`."""
    pieces: list[tuple[int, bytes]]
    """Body bytes, each with the stamp taken right after the `recv` that completed them."""
    ended_ns: int
    problem: str | None
    """Why the answer is not whole; None if it is."""


class Vitals(Struct, frozen=True, kw_only=True, tag="vitals"):
    """CPU time and loop lag of the measuring process."""

    cpu_ns: int
    """CPU time since the process began."""
    loop_lags_ns: list[int]
    """How late a periodic timer fired, since the last report."""


Order = Send | Measure
Report = Exchange | Vitals


def frame(message: Order | Report) -> bytes:
    """Encode a message with its length before it."""
    body = msgspec.msgpack.encode(message)
    return len(body).to_bytes(_LENGTH_BYTES, "big") + body


async def read_frame(reader: asyncio.StreamReader) -> bytes:
    """Body of the next frame. Raises asyncio.IncompleteReadError at the end of the stream."""
    length = int.from_bytes(await reader.readexactly(_LENGTH_BYTES), "big")
    return await reader.readexactly(length)
