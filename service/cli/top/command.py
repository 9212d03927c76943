"""`triptych top`: models, memory and requests of a running service, live in the terminal."""

import os
import select
import sys
import termios
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import click
import httpx
from rich.console import Console, RenderableType
from rich.live import Live

from service.cli.top.rates import Rates
from service.cli.top.source import Unanswered, fetch, open_client
from service.cli.top.view import frame, waiting

QUIT = frozenset("qQ\x03\x04")
"""`q`, and what Ctrl-C and Ctrl-D send where the terminal hands them over."""


@click.command()
@click.option(
    "--base-url",
    "--url",
    "url",
    default="http://127.0.0.1:8000",
    show_default=True,
    envvar="TRIPTYCH_URL",
    show_envvar=True,
    help="URL of the service, without /v1.",
)
@click.option(
    "--interval",
    "interval_s",
    type=click.FloatRange(min=0.1),
    default=1.0,
    show_default=True,
    help="Seconds between readings.",
)
@click.option("--once", is_flag=True, help="Print one reading and exit.")
def top(*, url: str, interval_s: float, once: bool) -> None:
    """Show models, memory and requests of a running service; press q to quit.

    While the service does not answer, the view says so and tries again.
    """
    console = Console()
    with open_client(url) as client:
        if once or not console.is_terminal:
            try:
                console.print(frame(url, fetch(client), Rates(), width=console.width))
            except Unanswered as why:
                raise click.ClickException(str(why)) from why
            return
        with suppress(KeyboardInterrupt):
            watch(client, url, console, interval_s)


def watch(client: httpx.Client, url: str, console: Console, interval_s: float) -> None:
    """Draw one reading after the other until a quit key is pressed."""
    rates = Rates()
    with _keys() as quits_within, Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            live.update(look(client, url, rates, console.width), refresh=True)
            if quits_within(interval_s):
                return


def look(client: httpx.Client, url: str, rates: Rates, width: int) -> RenderableType:
    """Read once and draw the reading, or the reason why there is none."""
    try:
        seen = fetch(client)
    except Unanswered as why:
        rates.forget()
        return waiting(url, str(why))
    rates.take(seen.at_s, seen.tokens)
    return frame(url, seen, rates, width=width)


@contextmanager
def _keys() -> Iterator[Callable[[float], bool]]:
    """Yield a function that waits some seconds for a quit key; keys are not echoed."""
    if not sys.stdin.isatty():
        yield lambda seconds: bool(select.select([], [], [], seconds)[0])
        return
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    tty.setcbreak(descriptor)
    try:
        yield _quits
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def _quits(seconds: float) -> bool:
    ready, _, _ = select.select([sys.stdin], [], [], seconds)
    return bool(ready) and bool(
        QUIT & set(os.read(sys.stdin.fileno(), 64).decode("utf-8", "replace"))
    )
