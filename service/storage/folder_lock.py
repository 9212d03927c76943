"""Lock of a data folder: a second service would take the first one's requests for orphans."""

import fcntl
import os
from pathlib import Path
from typing import Self

from service.core.errors import ConfigError


class FolderLock:
    """Held while the service runs; the kernel releases it however the process ends."""

    def __init__(self, folder: Path) -> None:
        """Take the lock. Raises ConfigError if another process holds it or it cannot be opened."""
        path = folder / "triptych.lock"
        try:
            self._file = path.open("a+", encoding="utf-8", errors="replace")
        except OSError as error:
            raise ConfigError(
                f"lock file {path} cannot be opened ({error.strerror}); remove it, or use another "
                "folder with --data-dir"
            ) from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._file.seek(0)
            holder = self._file.read().strip() or "unknown"
            self._file.close()
            raise ConfigError(
                f"data folder {folder} is in use by another service (process {holder}); "
                "stop it, or use another folder with --data-dir"
            ) from error
        self._file.truncate(0)
        self._file.write(str(os.getpid()))
        self._file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the lock."""
        self._file.close()
