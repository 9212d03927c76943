"""ChildLog: the output of a child process, in a log file of bounded size."""

import codecs
import logging
import os
import threading
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO, Final

MAX_BYTES: Final = 4 * 2**20
"""Size at which a log file is rotated."""

GENERATIONS: Final = 4
"""Rotated files that are kept: `….log.1` is the youngest."""

TAIL_BYTES: Final = 1 << 16
"""Latest output kept in memory, where the reason for an exit is looked up."""

DRAIN_S: Final = 1.0
"""Longest wait for the rest of the output once the child has ended."""

READ_BYTES: Final = 1 << 16

log = logging.getLogger(__name__)


class ChildLog:
    """Copies what a child writes from a pipe to a rotated file, on a thread of its own.

    The child's descriptor is a pipe rather than the file: a file could only be rotated by
    truncating it under the child, which loses lines and bounds nothing between two checks, and a
    rotating handler inside the child would miss what crashes write (libc, OpenMP, faulthandler).
    The thread reads on whatever the event loop does, and also if the disk is full, so that the
    child never blocks on its own log.
    """

    def __init__(
        self,
        path: Path,
        *,
        on_text: Callable[[str], None] | None = None,
        max_bytes: int = MAX_BYTES,
        generations: int = GENERATIONS,
    ) -> None:
        """Write nothing yet.

        Args:
            path: The log file; a new life of the child begins a new generation.
            on_text: Called on the reading thread with each chunk of output.
            max_bytes: Size at which the file is rotated.
            generations: Rotated files that are kept.
        """
        self._path = path
        self._on_text = on_text
        self._max_bytes = max_bytes
        self._generations = generations
        self._tail = bytearray()
        self._thread: threading.Thread | None = None
        self._abandoned = False

    def open(self) -> int:
        """A descriptor for the child's output; close it here once the child has it."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._rotate()
        reader, writer = os.pipe()
        self._thread = threading.Thread(
            target=self._copy, args=(reader,), name=f"log {self._path.name}", daemon=True
        )
        self._thread.start()
        return writer

    def drain(self) -> None:
        """Block until all output of a child that has ended is written, at most DRAIN_S."""
        if self._thread is None:
            return
        self._thread.join(DRAIN_S)
        # A process that outlived the child may hold the pipe: it is read on, and written nowhere.
        self._abandoned = self._thread.is_alive()

    def tail(self) -> list[str]:
        """The latest lines that are not blank."""
        text = bytes(self._tail).decode("utf-8", "replace")
        return [line.rstrip() for line in text.splitlines() if line.strip()]

    def _copy(self, reader: int) -> None:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        file = self._opened()
        try:
            while data := os.read(reader, min(READ_BYTES, self._max_bytes)):
                self._tail += data
                del self._tail[:-TAIL_BYTES]
                self._tell(decoder.decode(data))
                file = self._write(file, data)
        finally:
            os.close(reader)
            if file is not None:
                file.close()

    def _tell(self, text: str) -> None:
        if self._on_text is None:
            return
        try:
            self._on_text(text)
        except Exception:  # else nobody would read on, and the child would block
            log.exception("stopped parsing %s", self._path)
            self._on_text = None

    def _write(self, file: BinaryIO | None, data: bytes) -> BinaryIO | None:
        """Append to the file, or to a new one if it is full; None while it cannot be written."""
        if file is None or self._abandoned:
            return file
        try:
            if file.tell() + len(data) > self._max_bytes:
                file.close()
                self._rotate()
                file = self._path.open("ab", buffering=0)
            file.write(data)
        except OSError as error:
            log.warning("stopped writing %s: %s", self._path, error.strerror)
            file.close()
            return None
        return file

    def _opened(self) -> BinaryIO | None:
        try:
            return self._path.open("ab", buffering=0)
        except OSError as error:
            log.warning("%s cannot be written: %s", self._path, error.strerror)
            return None

    def _rotate(self) -> None:
        """Make room for a new file: `….log` becomes `….log.1`, and so on; the oldest goes."""
        if not self._path.exists():
            return
        rotated = [
            self._path.with_name(f"{self._path.name}.{number}")
            for number in range(1, self._generations + 1)
        ]
        for younger, older in reversed([*pairwise([self._path, *rotated])]):
            if younger.exists():
                younger.replace(older)
