"""Records 2000 requests on a disk that becomes full and has room again; says what it saw.

Usage: full_disk_child.py URL.
"""

import asyncio
import resource
import sys
import time
from collections.abc import Callable

from service.core.errors import StoreUnavailable
from service.core.record import RequestRecord
from service.storage import open_store
from service.storage.writer import RecordWriter


def record(number: int) -> RequestRecord:
    """A short accepted record."""
    return RequestRecord(
        request_id=f"r{number:06}", phase="accepted", status="running", endpoint="chat",
        stream=False, requested_model="m", accepted_at_ns=number, accepted_ns=number,
    )  # fmt: skip


def say(what: str) -> None:
    """Tell the test."""
    sys.stdout.write(f"{what}\n")


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for the writer's thread."""
    deadline = time.monotonic() + 30
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.01)


def main(url: str) -> None:
    """Fill the disk, look, free it, look."""
    writer = RecordWriter(open_store(url))
    writer.start()
    writer.submit(record(0))
    asyncio.run(writer.flushed())
    say("healthy" if writer.healthy else "unhealthy")

    unlimited, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (256 * 1024, hard))
    for number in range(1, 2000):
        writer.submit(record(number))
    wait_until(lambda: writer.stats().failed_writes > 1)
    say("healthy" if writer.healthy else "unhealthy")
    try:
        asyncio.run(writer.flushed())
    except StoreUnavailable:
        say("refused")

    resource.setrlimit(resource.RLIMIT_FSIZE, (unlimited, hard))
    wait_until(lambda: writer.healthy)
    say(f"left={writer.close()}")


if __name__ == "__main__":
    main(sys.argv[1])
