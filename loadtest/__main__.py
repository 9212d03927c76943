"""`python -m loadtest plan PLAN` and `python -m loadtest run PLAN --base-url URL`."""

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

import click
from msgspec import structs

from loadtest.corpus import Prompt, load_prompts
from loadtest.errors import LoadTestError
from loadtest.plan import Plan, load_plan
from loadtest.progress import LiveProgress
from loadtest.reconcile import Reconciliation, fetch_records, reconcile
from loadtest.report import Document, schedule_table, stdout_console, tables
from loadtest.run import Results, connect, run
from loadtest.schedule import Turn, schedule
from loadtest.summary import summarize

_PLAN = click.argument("plan_file", metavar="PLAN", type=click.Path(path_type=Path))
_SEED = click.option("--seed", type=int, help="Instead of the plan's seed.")
_OURS = {"localhost", "127.0.0.1", "::1"}


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Open-loop load tests of a running service."""


@main.command("plan")
@_PLAN
@_SEED
def show_plan(plan_file: Path, seed: int | None) -> None:
    """Show who would be sent what and when; sends nothing."""
    plan, _, turns = _prepare(plan_file, seed)
    stdout_console().print(schedule_table(plan, turns))


@main.command("run")
@_PLAN
@click.option("--base-url", required=True, help="Address of the service, without /v1.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Also write everything.")
@_SEED
@click.option("--yes", is_flag=True, help="Do not ask before loading another machine.")
def run_plan(
    plan_file: Path, base_url: str, json_file: Path | None, seed: int | None, *, yes: bool
) -> None:
    """Run PLAN against a service; the last line of stdout is a JSON document.

    Ends with 1 if the run is invalid or a request and its record disagree, with 130 if it was
    interrupted (Ctrl-C shows what there is).
    """
    plan, prompts, turns = _prepare(plan_file, seed)
    host = urlsplit(base_url).hostname
    if host is None:
        raise click.BadParameter(
            "needs a scheme, as in http://127.0.0.1:8000", param_hint="--base-url"
        )
    if host not in _OURS and not yes:
        click.confirm(
            f"Send {plan.requests_per_model * len(plan.models)} requests to {base_url}?",
            abort=True,
            err=True,
        )
    try:
        results, reconciliation = asyncio.run(_run(plan, turns, prompts, base_url))
    except LoadTestError as error:
        raise click.ClickException(str(error)) from error
    summary = summarize(plan, results)
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
        sys.exit(130)
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
) -> tuple[Results, Reconciliation | None]:
    async with connect(base_url) as http:
        with LiveProgress(plan) as progress:
            results = await run(plan, turns, prompts, http, progress.watch)
        records = await fetch_records(http, results.run_id, results.begun_at_ns)
    if records is None:
        return results, None
    return results, reconcile([*results.warmups, *results.observations], records)


if __name__ == "__main__":
    main(prog_name="python -m loadtest")
