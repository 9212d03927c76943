"""Log lines are single, dated, and free of what clients sent."""

import io
import logging
import re
from collections.abc import Iterator

import pytest

from service.core.errors import Overloaded
from service.telemetry.log import configure_logging


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    configure_logging("info", stream)
    yield stream
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(capture=False)


def test_a_line_has_time_level_logger_and_message(lines: io.StringIO) -> None:
    """A line starts with its UTC time and names level and logger."""
    logging.getLogger("service.x").info("loaded %s", "m")

    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z INFO service\.x loaded m\n", lines.getvalue()
    )


def test_a_line_break_cannot_forge_a_line(lines: io.StringIO) -> None:
    """A message with line breaks stays one line."""
    logging.getLogger("service.x").info("id %s", "a\n2026-01-01T00:00:00.000Z ERROR forged\r")

    assert lines.getvalue().count("\n") == 1
    assert "a\\n2026" in lines.getvalue()


def test_an_error_shows_kind_and_place_but_not_its_text(lines: io.StringIO) -> None:
    """The text of a foreign exception, which may quote a prompt, is left out."""
    try:
        int("my secret prompt")
    except ValueError:
        logging.getLogger("service.x").exception("failed")

    assert "error=ValueError at " in lines.getvalue()
    assert "test_log.py" in lines.getvalue()
    assert "secret" not in lines.getvalue()
    assert lines.getvalue().count("\n") == 1


def test_our_own_errors_keep_their_text_and_causes(lines: io.StringIO) -> None:
    """Errors of the service say what they say to clients, and what they came from."""
    try:
        try:
            {}["secret"]
        except KeyError as error:
            raise Overloaded("The queue is full.") from error
    except Overloaded:
        logging.getLogger("service.x").exception("refused")

    assert "Overloaded(The queue is full.)" in lines.getvalue()
    assert "<- KeyError" in lines.getvalue()
    assert "secret" not in lines.getvalue()


def test_the_level_holds(lines: io.StringIO) -> None:
    """What is below the level is not written, nor are libraries' request lines."""
    logging.getLogger("service.x").debug("detail")
    logging.getLogger("httpx").info("HTTP Request: POST …")

    assert lines.getvalue() == ""
