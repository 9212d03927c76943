"""`triptych serve`: load settings, listen, serve, and print what is loaded."""

import asyncio
import sys
from pathlib import Path
from typing import Any

import click
import uvloop
from rich.console import Console
from rich.table import Table

from service import __version__
from service.app import create_application
from service.application import Application
from service.core.errors import ConfigError
from service.core.sizes import human_bytes
from service.server import address, listen
from service.server import serve as serve_http
from service.settings import Settings, load_settings
from service.telemetry.log import configure_logging

#: Polling interval while the first models load.
LOOK_S = 0.1

DEFAULTS = Settings()


@click.command()
@click.option("--host", help=f"Address to listen on. [default: {DEFAULTS.host}]")
@click.option("--port", type=int, help=f"Port; 0 picks a free one. [default: {DEFAULTS.port}]")
@click.option(
    "--data-dir", help=f"Folder for records and pulled models. [default: {DEFAULTS.data_dir}]"
)
@click.option("--models", multiple=True, help="Folder with catalogue files; may be repeated.")
@click.option(
    "--preload",
    multiple=True,
    help="Model to load at startup; may be repeated; `none` loads nothing. "
    "[default: the reference models]",
)
@click.option(
    "--memory-budget",
    help="Memory for models and their requests, such as 8GiB; `auto` takes 80 % of free memory. "
    f"[default: {DEFAULTS.memory_budget}]",
)
@click.option("--config", type=click.Path(path_type=Path), help="TOML file with settings.")
def serve(config: Path | None, **options: Any) -> None:  # noqa: ANN401 (click's values)
    """Serve models on an OpenAI-compatible address until Ctrl-C."""
    try:
        settings = load_settings(config, _given(options))
        configure_logging(settings.log_level)
        bound = listen(settings.host, settings.port)
        application = create_application(settings)
        uvloop.run(_serve(application, bound))
    except ConfigError as error:
        click.echo(f"triptych: {error}", err=True)
        sys.exit(2)


def _given(options: dict[str, Any]) -> dict[str, Any]:
    """Options given on the command line, as settings."""
    given = {name: value for name, value in options.items() if value not in (None, ())}
    if given.get("preload") == ("none",):
        given["preload"] = ()
    return given


async def _serve(application: Application, bound: Any) -> None:  # noqa: ANN401 (a socket)
    url = address(bound)
    console = Console(highlight=False)
    async with application.running():

        async def greet() -> None:
            console.print(
                f"Triptych {__version__} listens on {url}", f"API page: {url}/docs", sep="\n"
            )
            await _show_loading(application, console)
            _show_example(application, console, url)

        await serve_http(
            application.api,
            bound,
            limits=application.settings.http,
            on_ready=greet,
            drain=application.drain,
            abort=application.abort,
        )
    console.print("Stopped.")


async def _show_loading(application: Application, console: Console) -> None:
    """Print the models that load, then their status and memory."""
    names = application.settings.preload
    if not names:
        console.print("Models are loaded on their first request.")
        return
    console.print(f"Loading {', '.join(names)} ...")
    # The pool has states, not an event for each.
    while any(application.pool.status(name).state == "loading" for name in names):  # noqa: ASYNC110
        await asyncio.sleep(LOOK_S)
    table = Table("model", "family", "weights", "slots", "status", box=None, pad_edge=False)
    for name in names:
        status = application.pool.status(name)
        memory = status.memory
        table.add_row(
            name,
            status.spec.family,
            _bytes(memory.weights_bytes if memory else None),
            _bytes(memory.slots_bytes if memory else None),
            f"{status.state}: {status.error}" if status.error else status.state,
        )
    console.print(table)


def _show_example(application: Application, console: Console, url: str) -> None:
    loaded = [name for name in application.settings.preload if application.pool.status(name).loaded]
    if loaded:
        body = (
            f'{{"model": "{loaded[0]}", "messages": [{{"role": "user", '
            f'"content": "Find me a restaurant in San Jose."}}]}}'
        )
        console.print(
            f"Try:\n  curl {url}/v1/chat/completions -H 'content-type: application/json' \\\n"
            f"    -d '{body}'",
            soft_wrap=True,
        )


def _bytes(count: int | None) -> str:
    return "–" if count is None else human_bytes(count)
