"""Paths of the UNIX sockets between the service and its child processes."""

import os
import tempfile
from pathlib import Path
from typing import Final

SOCKET_PATH_BYTES: Final = 100
"""Longest path used; Linux allows 107 bytes."""


def socket_path(data_dir: Path, name: str) -> Path:
    """A free path in a folder that only this user can enter.

    It lies under *data_dir*, or in a temporary folder where that path would be too long.
    """
    folder = (data_dir / "run").resolve()
    if len(os.fsencode(folder / name)) > SOCKET_PATH_BYTES:
        return Path(tempfile.mkdtemp(prefix="triptych-")) / name  # created with mode 0700
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    (folder / name).unlink(missing_ok=True)
    return folder / name
