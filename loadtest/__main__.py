"""`python -m loadtest plan PLAN` and `python -m loadtest run PLAN --base-url URL`."""

import asyncio
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import click
from msgspec import structs

from loadtest.address import Address
from loadtest.corpus import Prompt, load_prompts
from loadtest.errors import LoadTestError
from loadtest.plan import Plan, load_plan
from loadtest.progress import LiveProgress
from loadtest.results.reconciliation import Reconciliation, by_client_id, reconcile
from loadtest.results.records import fetch_records
from loadtest.results.report import Document, schedule_table, stdout_console, tables
from loadtest.results.summary import RunSummary, summarize
from loadtest.run import Results, check_models, connect, run
from loadtest.schedule import Turn, schedule

_PLAN = click.argument("plan_file", metavar="PLAN", type=click.Path(path_type=Path))
_SEED = click.option("--seed", type=int, help="Seed of the schedule.  [default: the plan's]")
_INTERRUPTED = 128 + signal.SIGINT


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Open-loop load tests of a running service."""
    # A background job of a shell inherits SIGINT as ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@main.command("plan")
@_PLAN
@_SEED
def show_plan(plan_file: Path, seed: int | None) -> None:
    """Show the schedule of PLAN: models in turns, and times. Sends nothing."""
    plan, _, turns = _prepare(plan_file, seed)
    stdout_console().print(schedule_table(plan, turns))


@main.command("run")
@_PLAN
@click.option("--base-url", required=True, help="URL of the service, without /v1.")
@click.option(
    "--json",
    "json_file",
    type=click.Path(path_type=Path),
    help="File for the document with every measured request.",
)
@_SEED
@click.option("--yes", is_flag=True, help="Do not ask before sending load to another machine.")
def run_plan(
    plan_file: Path, base_url: str, json_file: Path | None, seed: int | None, *, yes: bool
) -> None:
    """Run PLAN against a service; the last line of stdout is a JSON document.

    Exits with 1 if the run is invalid or requests and records disagree, with 130 if it was
    interrupted: Ctrl-C ends the run and reports what there is.
    """
    plan, prompts, turns = _prepare(plan_file, seed)
    try:
        address = Address.parse(base_url)
        if not address.local and not yes:
            click.confirm(
                f"Send {plan.requests_per_model * len(plan.models)} requests to {base_url}?",
                abort=True,
                err=True,
            )
        results, summary, reconciliation = asyncio.run(_run(plan, turns, prompts, base_url))
    except LoadTestError as error:
        raise click.ClickException(str(error)) from error
    except KeyboardInterrupt:
        click.echo("interrupted before there were results", err=True)
        sys.exit(_INTERRUPTED)
    document = Document(
        run_id=results.run_id,
        begun_at_ns=results.begun_at_ns,
        base_url=base_url,
        plan=plan,
        summary=summary,
        reconciliation=reconciliation,
    )
    if json_file is not None:
        whole = structs.replace(document, observations=tuple(results.observations))
        json_file.write_bytes(whole.encode() + b"\n")
    stdout_console().print(tables(summary, reconciliation))
    print(document.encode().decode())
    if results.interrupted:
        sys.exit(_INTERRUPTED)
    agreed = reconciliation is None or reconciliation.complete
    sys.exit(0 if agreed and not summary.invalid else 1)


def _prepare(
    plan_file: Path, seed: int | None
) -> tuple[Plan, tuple[Prompt, ...], tuple[Turn, ...]]:
    try:
        plan = load_plan(plan_file)
        prompts = load_prompts(plan.prompts, plan_file.parent)
    except LoadTestError as error:
        raise click.ClickException(str(error)) from error
    if seed is not None:
        plan = structs.replace(plan, seed=seed)
    return plan, prompts, schedule(plan, len(prompts))


async def _run(
    plan: Plan, turns: Sequence[Turn], prompts: Sequence[Prompt], base_url: str
) -> tuple[Results, RunSummary, Reconciliation | None]:
    async with connect(base_url) as http:
        await check_models(http, plan.models)
        with LiveProgress(plan) as progress:
            results = await run(plan, turns, prompts, Address.parse(base_url), progress.watch)
        try:
            records = await fetch_records(http, results.asked, results.begun_at_ns)
        except LoadTestError as error:  # what was measured remains
            return results, summarize(plan, results, faults=[str(error)]), None
    if records is None:
        return results, summarize(plan, results), None
    reconciliation = reconcile(
        [*results.warmups, *results.observations],
        records,
        results.asked,
        exclusive=plan.validity.exclusive,
    )
    return results, summarize(plan, results, by_client_id(records)), reconciliation


if __name__ == "__main__":
    main(prog_name="python -m loadtest")
