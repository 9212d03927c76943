"""Start a `triptych serve` for a benchmark."""

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import httpx

LOG_CHARACTERS = 2000


class RunningService(NamedTuple):
    """Base URL and process of a running service."""

    address: str
    pid: int


@contextmanager
def running_service(folder: Path, *options: str, start_s: float) -> Iterator[RunningService]:
    """Start a service and wait until it is ready. Raises SystemExit with the tail of its log."""
    log = folder / "log"
    command = [sys.executable, "-m", "service", "serve", "--port", "0", *options]
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=output, text=True)
    try:
        assert process.stdout is not None
        found = None
        while found is None:
            line = process.stdout.readline()
            if not line:
                raise SystemExit(log.read_text()[-LOG_CHARACTERS:])
            found = re.search(r"http://[\w.]+:\d+", line)
        deadline = time.monotonic() + start_s
        while not httpx.get(f"{found.group()}/ready").is_success:
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(log.read_text()[-LOG_CHARACTERS:])
            time.sleep(0.1)
        yield RunningService(found.group(), process.pid)
    finally:
        process.terminate()
        process.wait(60)
