"""`triptych limits`: measure what this machine can do at most, for the shares in records."""

import subprocess
import sys
from pathlib import Path

import click
import msgspec
from rich.console import Console
from rich.table import Table

from service.core.limits import MachineLimits
from service.core.sizes import human_bytes, human_flops
from service.engines.threads import default_threads
from service.engines.torch.environment import environment
from service.telemetry.limits import LIMITS_NAME, read_limits, write_limits


@click.command()
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False),
    default="data",
    show_default=True,
    help="Data folder of the service.",
)
@click.option("--threads", type=click.IntRange(min=1), help="Compute threads.  [default: as serve]")
@click.option("--show", is_flag=True, help="Show the stored limits and measure nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def limits(data_dir: Path, threads: int | None, *, show: bool, as_json: bool) -> None:
    """Measure operations and bytes per second of this machine, and store them in the data folder.

    Run it while nothing else computes, and restart the service: records of requests that were
    computed alone then tell the shares of these limits that they reached.
    """
    found = read_limits(data_dir) if show else _measured(data_dir, threads or default_threads())
    if found is None:
        raise click.ClickException(
            f"{data_dir / LIMITS_NAME} is not there or cannot be read; run: triptych limits "
            f"--data-dir {data_dir}"
        )
    if not show:
        try:
            write_limits(data_dir, found)
        except OSError as error:
            raise click.ClickException(f"{data_dir}: {error.strerror}; use --data-dir") from error
    if as_json:
        click.echo(msgspec.json.encode(found))
    else:
        Console().print(_table(found))


def _measured(data_dir: Path, threads: int) -> MachineLimits:
    """Measure in a process with torch, set up as the torch host is."""
    done = subprocess.run(
        [sys.executable, "-m", "service.torch_host.limits"],
        env=environment(threads, data_dir),
        capture_output=True,
        check=False,
    )
    if done.returncode != 0:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise click.ClickException(last[0] if last else f"it ended with {done.returncode}")
    return msgspec.json.decode(done.stdout, type=MachineLimits)


def _table(found: MachineLimits) -> Table:
    table = Table(title=f"{found.device}, {found.threads} threads", title_justify="left", box=None)
    table.add_column("limit")
    table.add_column("per second", justify="right")
    for dtype, rate in found.flops_per_s.items():
        table.add_row(f"products in {dtype}", human_flops(rate))
    table.add_row("memory read", human_bytes(found.bytes_per_s))
    return table
