"""What supervisors of child processes share: waits before restarts, sockets, last words."""

import os
import tempfile
from pathlib import Path
from typing import Final

STEADY_S: Final = 60.0
"""A process that lived this long is started again after the shortest wait."""

LONGEST_WAIT_S: Final = 60.0
"""Longest wait before a restart."""

SOCKET_PATH_BYTES: Final = 100
"""Longest socket path that is used; UNIX allows 107."""

LOG_TAIL_BYTES: Final = 4096


class Backoff:
    """How long to wait before a process that died is started again: 1, 2, 4 … 60 s."""

    def __init__(self) -> None:
        self.deaths = 0
        """Deaths in a row, none of them after a steady life."""

    def died(self, *, after_s: float) -> float:
        """Seconds to wait, given how long the process lived."""
        self.deaths = 1 if after_s >= STEADY_S else self.deaths + 1
        return min(LONGEST_WAIT_S, 2.0 ** (self.deaths - 1))


def socket_path(data_dir: Path, name: str) -> Path:
    """A free path for a UNIX socket that only this user can reach."""
    folder = (data_dir / "run").resolve()
    if len(os.fsencode(folder / name)) > SOCKET_PATH_BYTES:
        return Path(tempfile.mkdtemp(prefix="triptych-")) / name  # 0700 by itself
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    (folder / name).unlink(missing_ok=True)
    return folder / name


def last_line(log_path: Path, start: int) -> str | None:
    """The last line written to a log since *start* (bytes), None if nothing was."""
    with log_path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(start, end - LOG_TAIL_BYTES))
        lines = file.read().decode("utf-8", "replace").splitlines()
    return next((line.strip() for line in reversed(lines) if line.strip()), None)
