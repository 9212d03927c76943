"""Staging folder of a pull, renamed into place when it is complete."""

import contextlib
import fcntl
import shutil
from collections.abc import Iterator
from pathlib import Path

from model_registry.errors import PullFailed

STAGING_NAME = ".pulling"


@contextlib.contextmanager
def staging(models_dir: Path, model: str, *, doing: str = "pulled") -> Iterator[Path]:
    """A folder for one pull of one model; downloads in it survive an interrupted pull.

    Raises PullFailed if another process is pulling the same model, or `doing` something else to it.
    """
    folder = models_dir / STAGING_NAME / model
    folder.mkdir(parents=True, exist_ok=True)
    with (models_dir / STAGING_NAME / f"{model}.lock").open("w") as guard:
        try:
            fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PullFailed(f"{model} is being {doing} by another process") from None
        yield folder


def publish(folder: Path, target: Path, staging_folder: Path) -> None:
    """Move a finished folder into place, replacing an older model, and drop the staging folder."""
    for path in folder.iterdir():
        path.chmod(0o644)
    old = staging_folder / "old"
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    folder.rename(target)
    shutil.rmtree(staging_folder, ignore_errors=True)
