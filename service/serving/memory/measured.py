"""MeasuredBytes: memory of models as measured at their last load, kept across restarts."""

import logging
import os
import tempfile
import threading
from pathlib import Path

import msgspec

from model_registry.spec import ResolvedModel
from service.core.ports import MemoryEstimate

log = logging.getLogger(__name__)


class MeasuredBytes:
    """Bytes held at rest, by model, weights and setup, in a small JSON file or in memory only.

    A lost file costs one prediction a model: one that cannot be read or written is no error.
    """

    def __init__(self, path: Path | None = None) -> None:
        """Read the file, if there is one; without a path nothing outlives the process."""
        self._path = path
        self._bytes: dict[str, int] = {}
        self._writing = threading.Lock()
        if path is not None:
            try:
                self._bytes = msgspec.json.decode(path.read_bytes(), type=dict[str, int])
            except FileNotFoundError:
                pass
            except (OSError, msgspec.MsgspecError) as error:
                log.warning("%s cannot be read; models will be measured again: %s", path, error)

    def get(self, model: ResolvedModel, need: MemoryEstimate) -> int | None:
        """Bytes held at the last load; None if the model was never loaded in this setup."""
        return self._bytes.get(_key(model, need))

    def put(self, model: ResolvedModel, need: MemoryEstimate, held_bytes: int) -> None:
        """Keep a measurement; blocking if it is new. May be called from several threads."""
        key = _key(model, need)
        with self._writing:
            if self._bytes.get(key) == held_bytes:
                return
            self._bytes = self._bytes | {key: held_bytes}
            if self._path is None:
                return
            try:
                _replace(self._path, msgspec.json.format(msgspec.json.encode(self._bytes)))
            except OSError as error:
                log.warning("%s cannot be written: %s", self._path, error.strerror)


def _replace(path: Path, content: bytes) -> None:
    """Write the whole file or leave it as it is."""
    descriptor, new = tempfile.mkstemp(prefix=f"{path.name}.", suffix=".new", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        os.replace(new, path)  # noqa: PTH105 (whole or not at all)
    except OSError:
        Path(new).unlink(missing_ok=True)
        raise


def _key(model: ResolvedModel, need: MemoryEstimate) -> str:
    return f"{model.id} {model.weights_sha256 or '-'} {need.setup}"
