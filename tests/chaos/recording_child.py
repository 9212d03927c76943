"""A service's recording alone, for tests that kill it: prints an id once it is promised.

Usage: recording_child.py URL FIRST_NUMBER. Lines are `accepted ID` and `final ID`, each written
after `flushed` has returned.
"""

import asyncio
import sys
import time

from service.core.record import RequestRecord
from service.storage import open_store
from service.storage.writer import RecordWriter

REQUESTS_AT_ONCE = 8


def record(request_id: str, **changes: object) -> RequestRecord:
    """An accepted record of a request; keywords replace its fields."""
    values: dict[str, object] = {
        "request_id": request_id,
        "phase": "accepted",
        "status": "running",
        "endpoint": "chat",
        "stream": True,
        "requested_model": "m",
        "accepted_at_ns": time.time_ns(),
        "accepted_ns": time.monotonic_ns(),
    }
    return RequestRecord(**(values | changes))  # type: ignore[arg-type]


def say(what: str, subject: str) -> None:
    """Tell the test at once."""
    sys.stdout.write(f"{what} {subject}\n")
    sys.stdout.flush()


async def serve(writer: RecordWriter, first: int, lane: int) -> None:
    """Answer one request after another: accepted, a moment of work, final."""
    number = first + lane
    while True:
        request_id = f"r{number:08}"
        writer.submit(record(request_id))
        await writer.flushed()
        say("accepted", request_id)
        await asyncio.sleep(0.001)
        writer.submit(record(request_id, phase="final", status="ok", model="m"))
        await writer.flushed()
        say("final", request_id)
        number += REQUESTS_AT_ONCE


async def main(url: str, first: int) -> None:
    """Record until killed."""
    writer = RecordWriter(open_store(url))
    say("interrupted", str(writer.start()))
    await asyncio.gather(*(serve(writer, first, lane) for lane in range(REQUESTS_AT_ONCE)))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
