"""`triptych quantize`: pack a variant's weights to disk, so that its loads are fast and small.

A process with torch does the work; this one stages its output and renames it at the end.
"""

import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

from model_registry.errors import CorruptFile, RegistryError
from model_registry.sources.locate import locate
from model_registry.sources.lock import hash_file, lock_files
from model_registry.sources.packed import (
    PACKED_NAME,
    PackedLock,
    read_packed_lock,
    write_packed_lock,
)
from model_registry.sources.staging import publish, staging
from model_registry.spec import ModelSpec, ResolvedModel
from service.cli.models.location import CatalogPlace, catalog_options
from service.core.errors import ConfigError
from service.core.sizes import human_bytes
from service.engines.threads import default_threads
from service.engines.torch.environment import environment
from service.engines.torch.protocol.messages import LoadProgress

_DOING = {"weights": "read weights", "quantize": "round and pack", "verify": "load and compare"}


@click.command()
@click.argument("model")
@click.option(
    "--as",
    "quantization",
    type=click.Choice(["int8", "int4", "gguf"]),
    required=True,
    help="Quantization to pack.",
)
@click.option("--force", is_flag=True, help="Replace existing packed weights.")
@catalog_options
def quantize(place: CatalogPlace, model: str, quantization: str, *, force: bool) -> None:
    """Write a variant of MODEL to disk, packed as the torch engine computes with it.

    MODEL is an id of the catalogue, or id:variant where several variants have that quantization.
    From then on its loads read that file instead of the plain weights: they take a fraction of the
    time, and of the memory no more than the packed weights. Files are checked by SHA-256.
    """
    try:
        entry, named = place.catalog().find(model)
        variant = _variant(entry.spec, quantization, named)
        resolved = locate(entry, variant, place.models_dir)
        assert resolved.packed_path is not None
        target = Path(resolved.packed_path)
        if force or not _whole(resolved, target):
            with staging(place.models_dir, f"{entry.spec.id}-{variant}", doing="quantized") as work:
                try:
                    _quantize(resolved, work / "packed", place.models_dir.parent)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    publish(work / "packed", target, work)
                finally:
                    shutil.rmtree(work, ignore_errors=True)
    except (RegistryError, ConfigError) as error:
        raise click.ClickException(str(error)) from error
    except KeyboardInterrupt:
        click.echo("interrupted; nothing was written", err=True)
        sys.exit(128 + signal.SIGINT)
    size = (target / PACKED_NAME).stat().st_size
    click.echo(f"{resolved.id}: {human_bytes(size)} in {target.resolve()}")


def _variant(spec: ModelSpec, quantization: str, named: str | None) -> str:
    """The variant that is named, else the first, of a quantization on the torch engine."""
    for name, variant in spec.variants.items():
        served = (variant.quantization, variant.engine or spec.engine) == (quantization, "torch")
        if served and named in (None, name):
            return name
    raise click.ClickException(
        f"{spec.id} has no variant of {quantization} on the torch engine; add to its catalogue "
        f'file: [variants.{quantization}] quantization = "{quantization}"'
    )


def _whole(resolved: ResolvedModel, folder: Path) -> bool:
    """True if packed weights exist, match the current weights, and are undamaged."""
    try:
        lock = read_packed_lock(folder)
        return (
            lock is not None
            and lock.made_of(resolved)
            and hash_file(folder / PACKED_NAME) == lock.file.sha256
        )
    except (CorruptFile, OSError):
        return False


def _quantize(resolved: ResolvedModel, folder: Path, data_dir: Path) -> None:
    """Write packed weights and their lock into a folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    _run(resolved, folder / PACKED_NAME, data_dir)
    file = lock_files(folder, [PACKED_NAME])[PACKED_NAME]
    write_packed_lock(folder, PackedLock.of(resolved, file))


def _run(resolved: ResolvedModel, file: Path, data_dir: Path) -> None:
    """Run the packing process and show its progress."""
    command = [sys.executable, "-m", "service.torch_host.quantize", str(file)]
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(  # noqa: S603 - a list, no shell
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=environment(default_threads(), data_dir),
            start_new_session=True,  # Ctrl-C reaches this process, which ends that one
        ) as process,
        Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(binary_units=True),
            console=Console(stderr=True),
        ) as bars,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(msgspec.json.encode(resolved))
            process.stdin.close()
            tasks = {stage: bars.add_task(doing, total=None) for stage, doing in _DOING.items()}
            for line in process.stdout:
                step = msgspec.json.decode(line, type=LoadProgress)
                bars.update(tasks[step.stage], completed=step.done_bytes, total=step.total_bytes)
            process.wait()
            errors.seek(0)
            problem = errors.read().decode(errors="replace").strip()
        except BaseException:
            process.kill()
            raise
    if process.returncode != 0:
        last = problem.splitlines()[-1:] or [f"the process ended with {process.returncode}"]
        raise click.ClickException(last[0])
