"""`triptych experiment`: run plans, and list, show, report and cancel experiments."""

import sys
from pathlib import Path
from typing import Any, Final

import click
from rich.console import Console

from service.cli.experiment.client import ExperimentClient
from service.cli.experiment.plan_file import read_plan
from service.cli.experiment.view import listing, medians, note, progress_bar
from service.cli.running_service import url_option

FORMATS: Final = ("md", "json", "html")
INTERRUPTED: Final = 130


@click.group()
def experiment() -> None:
    """Measure several models on the same prompts, in random order, and report on it."""


@experiment.command()
@click.argument("plan", type=click.Path(path_type=Path))
@click.option(
    "--report",
    "report_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the report to this file; its suffix, .html, .md or .json, is the format.",
)
@click.option("--detach", is_flag=True, help="Return at once; the service runs it by itself.")
@url_option
def run(plan: Path, report_file: Path | None, *, detach: bool, url: str) -> None:
    """Run PLAN, a TOML file, and show its progress. Ctrl-C cancels it."""
    form = _format_of(report_file) if report_file else None
    wanted = read_plan(plan)
    console = Console()
    with ExperimentClient(url) as client:
        created = client.create(wanted)
        click.echo(created["id"])
        if detach:
            return
        try:
            last = _watch(client, created)
        except KeyboardInterrupt:
            done = client.cancel(created["id"])
            click.echo(f"cancelled after {done['done']} of {done['planned']} trials", err=True)
            sys.exit(INTERRUPTED)
        console.print(medians(created["plan"], client.trials(created["id"])))
        if report_file and form:
            _write(report_file, client.report(created["id"], form))
    if last["state"] != "done" or last["failed"]:
        raise click.ClickException(
            f"the experiment is {last['state']}, and {last['failed']} of its trials failed; "
            f"see `triptych experiment show {created['id']}`"
        )


@experiment.command("list")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True)
@url_option
def list_(*, limit: int, url: str) -> None:
    """List the newest experiments."""
    with ExperimentClient(url) as client:
        Console().print(listing(client.page(limit)))


@experiment.command()
@click.argument("experiment_id", metavar="ID")
@url_option
def show(experiment_id: str, *, url: str) -> None:
    """Show the state of an experiment, its medians, and why trials failed."""
    console = Console()
    with ExperimentClient(url) as client:
        found, trials = client.get(experiment_id), client.trials(experiment_id)
    console.print(listing([found]))
    if said := note(found):
        console.print(said)
    if found["error"]:
        console.print(found["error"])
    console.print(medians(found["plan"], trials))
    errors = {(trial["arm"], trial["error"]) for trial in trials if trial["error"]}
    for arm, error in sorted(errors):
        console.print(f"{found['plan']['arms'][arm]['model']}: {error}", style="red", markup=False)


@experiment.command()
@click.argument("experiment_id", metavar="ID")
@click.option("--format", "form", type=click.Choice(FORMATS), help="Default: the file's, or md.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Default: print it."
)
@url_option
def report(
    experiment_id: str,
    *,
    form: str | None,
    output: Path | None,
    url: str,
) -> None:
    """Fetch the report on an experiment; one that still runs is reported as far as it is."""
    chosen = form or (_format_of(output) if output else "md")
    with ExperimentClient(url) as client:
        content = client.report(experiment_id, chosen)
    if output is None:
        click.echo(content, nl=False)
    else:
        _write(output, content)


@experiment.command()
@click.argument("experiment_id", metavar="ID")
@url_option
def cancel(experiment_id: str, *, url: str) -> None:
    """Cancel an experiment; what it has measured stays."""
    with ExperimentClient(url) as client:
        click.echo(client.cancel(experiment_id)["state"])


def _watch(client: ExperimentClient, created: dict[str, Any]) -> dict[str, Any]:
    """Draw the progress to its end; return the last one."""
    last = created
    with progress_bar() as bar:
        task = bar.add_task(created["name"], total=created["planned"], note=note(created))
        for last in client.events(created["id"]):
            bar.update(task, completed=last["done"], note=note(last))
    return last


def _format_of(path: Path) -> str:
    form = path.suffix.removeprefix(".")
    if form not in FORMATS:
        raise click.UsageError(f"{path}: name a file that ends with .html, .md or .json")
    return form


def _write(path: Path, content: bytes) -> None:
    try:
        path.write_bytes(content)
    except OSError as error:
        raise click.ClickException(f"{path}: {error.strerror}") from error
    click.echo(f"wrote {path}", err=True)
