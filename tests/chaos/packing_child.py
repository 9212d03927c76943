"""Fills a block of records, packs it while the disk is full, and again when there is room.

Usage: packing_child.py URL. Says what each packing did: `full`, then `packed`.
"""

import resource
import sys

from service.core.errors import StoreUnavailable
from service.core.record import RequestRecord
from service.storage import open_store
from service.storage.columns.blocks import BLOCK_ROWS


def record(number: int) -> RequestRecord:
    """A final record."""
    return RequestRecord(
        request_id=f"r{number:06}", phase="final", status="ok", endpoint="chat", model="m",
        stream=False, requested_model="m", accepted_at_ns=number, accepted_ns=number,
        queued_ns=number + 1, scheduled_ns=number + 2, first_ns=number + 3, last_ns=number + 9,
    )  # fmt: skip


def main(url: str) -> None:
    """Fill, pack without room, pack with room."""
    store = open_store(url)
    for first in range(0, BLOCK_ROWS + 1, 1024):
        store.write([record(number) for number in range(first, first + 1024)])
    unlimited, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # No file may grow: neither the write-ahead log nor the database.
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, hard))
    try:
        store.compact()
        sys.stdout.write("packed\n")
    except StoreUnavailable:
        sys.stdout.write("full\n")
    resource.setrlimit(resource.RLIMIT_FSIZE, (unlimited, hard))
    sys.stdout.write("packed\n" if store.compact() else "nothing\n")
    store.close()


if __name__ == "__main__":
    main(sys.argv[1])
