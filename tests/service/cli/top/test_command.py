"""The live view of a running service: from a terminal, into a pipe, and without a service."""

import contextlib
import http.client
import io
import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from click.testing import CliRunner
from rich.console import Console

from service.cli.main import main
from service.cli.top.command import look
from service.cli.top.rates import Rates
from service.cli.top.source import open_client
from service.cli.top.view import WIDE, MemoryBar
from service.core.runtime import DeviceUse
from service.serving.memory.report import MemoryReport
from support.interrupts import in_background
from support.live_service import live, serve

__all__ = ["live", "serve"]

NOWHERE = "http://127.0.0.1:9"


def drawn(live, rates=None, *, width=WIDE):
    """One reading as text."""
    console = Console(width=width, record=True, file=io.StringIO())
    with open_client(live.base_url) as client:
        console.print(look(client, live.base_url, rates or Rates(), width))
    return console.export_text()


def line_of(text, model):
    (line,) = (line for line in text.splitlines() if line.split()[:1] == [model])
    return line.split()


def test_one_reading_into_a_pipe(live):
    """Plain text with memory, processes and models; nothing moves, nothing is coloured."""
    result = CliRunner().invoke(main, ["top", "--base-url", live.base_url, "--once"])

    assert result.exit_code == 0
    assert "\x1b" not in result.output
    assert re.search(r"memory +0 B of [\d.]+ [GM]iB", result.output)
    assert "service" in result.output
    assert line_of(result.output, "echo")[1] == "ready"


def test_no_service_is_a_clear_error():
    """With the address, the reason and what to do."""
    result = CliRunner().invoke(main, ["top", "--base-url", NOWHERE, "--once"])

    assert result.exit_code == 1
    assert NOWHERE in result.output
    assert "triptych serve" in result.output


def test_another_service_is_not_taken_for_one(live):
    """A path that is not there, as of any other server."""
    result = CliRunner().invoke(main, ["top", "--base-url", f"{live.base_url}/m", "--once"])

    assert result.exit_code == 1
    assert "answered 404" in result.output


def test_requests_and_tokens_are_counted_while_they_run(live):
    """Running and waiting ones, and the rate of an answer that has not ended yet."""
    live.chat(model="single")
    rates = Rates()
    drawn(live, rates)
    body = {"model": "single", "messages": [{"role": "user", "content": "w " * 3000}]}
    with contextlib.ExitStack() as asking:
        for _ in range(3):
            connection = http.client.HTTPConnection(*live.socket.getsockname())
            asking.callback(connection.close)  # which cancels what it asked for
            headers = {"content-type": "application/json"}
            connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
        live.until(lambda: line_of(drawn(live, rates), "single")[2:5] == ["1", "2", "1/1"])
        live.until(lambda: float(line_of(drawn(live, rates), "single")[5]) > 1)
        assert "1 running, 2 queued" in drawn(live, rates)
    live.until(lambda: live.requests == 0)


def test_a_load_and_a_failure_are_seen(serve):
    """Loading while it loads, and the reason of a failure below the table."""
    live = serve()
    live.chat(model="broken")
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(live.chat, model="heavy")
        live.until(lambda: "heavy" in drawn(live) and line_of(drawn(live), "heavy")[1] == "loading")
        asked.result()
    text = drawn(live)

    assert line_of(text, "broken")[1] == "failed"
    assert "broken: no memory for it" in text
    assert re.search(r"\d+ more can be loaded", text)


def test_a_narrow_terminal_is_spared_two_columns(live):
    """And no line is longer than it."""
    text = drawn(live, width=80)

    assert "workspace" not in text
    assert max(map(len, text.splitlines())) <= 80
    assert "workspace" in drawn(live)


@pytest.mark.parametrize(
    ("used", "held", "bar"),
    [
        (0, [], "░░░░░░░░░░"),
        (50, [20, 30], "█████░░░░░"),
        (50, [1], "█▓▓▓▓░░░░░"),
        (200, [100, 100], "██████████"),
    ],
)
def test_the_bar_shows_what_is_held_booked_and_free(used, held, bar):
    """Even the smallest model gets a cell, and the bar never grows beyond its width."""
    memory = MemoryReport(
        budget_bytes=100,
        used_bytes=used,
        free_bytes=max(0, 100 - used),
        models=(),
        processes=(),
        device=DeviceUse(name="cpu"),
        prefix_cache=None,
    )

    assert MemoryBar(memory, [(count, "red") for count in held]).line(10).plain == bar


#: Takes the terminal as its own, so that Ctrl-C is for it.
IN_TERMINAL = """
import fcntl, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
from service.cli.main import main
main()
"""


class Terminal:
    """`triptych top` in a terminal of its own."""

    def __init__(self, url):
        self.ours, theirs = pty.openpty()
        command = [sys.executable, "-c", IN_TERMINAL, "top", "--base-url", url, "--interval", "0.1"]
        environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "120", "LINES": "30"}
        self.process = subprocess.Popen(
            in_background(command),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=environment,
            start_new_session=True,
        )
        os.close(theirs)
        self.shown = ""

    def read_until(self, text, limit_s=30.0):
        """Wait until a text is shown."""
        deadline = time.monotonic() + limit_s
        while text not in self.shown:
            assert time.monotonic() < deadline, self.shown[-2000:]
            if select.select([self.ours], [], [], 0.1)[0]:
                self.shown += os.read(self.ours, 65536).decode("utf-8", "replace")
        self.shown = self.shown[self.shown.index(text) + len(text) :]

    def end(self):
        """Its exit status, once all that it writes was read."""
        with contextlib.suppress(OSError):  # the terminal is gone with its last process
            while select.select([self.ours], [], [], 10)[0] and os.read(self.ours, 65536):
                pass
        return self.process.wait(10)

    def close(self):
        self.process.kill()
        self.process.wait()
        os.close(self.ours)


@pytest.fixture
def terminal():
    """Opens terminals that are closed at the end."""
    opened = []

    def open_one(url):
        opened.append(Terminal(url))
        return opened[-1]

    yield open_one
    for one in opened:
        one.close()


@pytest.mark.parametrize("key", [b"q", b"\x03"])
def test_a_key_ends_it(live, terminal, key):
    """`q` and Ctrl-C both end it as if it was meant, and the screen is given back."""
    view = terminal(live.base_url)
    view.read_until("tokens/s")
    os.write(view.ours, key)

    assert view.end() == 0


def test_it_waits_for_the_service_and_shows_it(serve, terminal):
    """First why there is nothing to see, then the models; an interrupt from outside ends it.

    Also where it was started with SIGINT ignored, as a background job is: it used to go on.
    """
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port = reserved.getsockname()[1]
    view = terminal(f"http://127.0.0.1:{port}")
    view.read_until("trying again")
    serve(port=port)
    view.read_until("tokens/s")
    view.read_until("ready")
    view.process.send_signal(signal.SIGINT)

    assert view.end() == 0
