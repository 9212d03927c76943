"""Logging: one line per event on stderr, without any text of prompts or answers."""

import logging
import sys
import time
import traceback
from collections.abc import Iterator
from typing import Literal, TextIO

from service.core.errors import TriptychError

Level = Literal["debug", "info", "warning", "error"]

#: Loggers of libraries that say too much, or that would write request lines.
_QUIET = ("alembic", "httpx", "httpcore", "uvicorn.access", "uvicorn.error", "huggingface_hub")


def configure_logging(level: Level, stream: TextIO | None = None) -> None:
    """Send every log line of the process to *stream* (stderr) in one format."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(LineFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(capture=True)
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)


class LineFormatter(logging.Formatter):
    """`2026-11-24T04:00:00.123Z INFO service.module message`, with an error's kind and place.

    Texts of exceptions are left out, since they may quote what a client sent; those of our own
    errors are safe to show and stay.
    """

    converter = staticmethod(time.gmtime)
    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """Format a record as exactly one line."""
        record.message = record.getMessage()
        record.asctime = self.formatTime(record)
        line = self.formatMessage(record)
        if record.exc_info and record.exc_info[1]:
            line += f" error={describe(record.exc_info[1])}"
        # A line break in a message would let a client write log lines of its own.
        return line.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")


def describe(error: BaseException) -> str:
    """Kind, place and causes of an error, without its text."""
    return " <- ".join(_one(link) for link in _chain(error))


def _one(error: BaseException) -> str:
    kind = type(error).__name__
    text = f"({error})" if isinstance(error, TriptychError) else ""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {frames[-1].filename}:{frames[-1].lineno} in {frames[-1].name}" if frames else ""
    return f"{kind}{text}{place}"


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
