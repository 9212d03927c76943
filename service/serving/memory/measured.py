"""What models held when they were loaded last: better than any prediction, kept between starts."""

import logging
import os
from pathlib import Path

import msgspec

from model_registry.spec import ResolvedModel
from service.core.ports import MemoryEstimate

log = logging.getLogger(__name__)


class MeasuredBytes:
    """Bytes that models hold at rest, by model, weights and setup; a small JSON file or none.

    What is lost costs one prediction: a file that cannot be read or written is no error.
    """

    def __init__(self, path: Path | None = None) -> None:
        """Read the file, if there is one; without a path nothing outlives the process."""
        self._path = path
        self._bytes: dict[str, int] = {}
        if path is not None:
            try:
                self._bytes = msgspec.json.decode(path.read_bytes(), type=dict[str, int])
            except FileNotFoundError:
                pass
            except (OSError, msgspec.MsgspecError) as error:
                log.warning("%s cannot be used, models are measured anew: %s", path, error)

    def get(self, model: ResolvedModel, need: MemoryEstimate) -> int | None:
        """What a model held last time, None if it was never loaded so."""
        return self._bytes.get(_key(model, need))

    def put(self, model: ResolvedModel, need: MemoryEstimate, held_bytes: int) -> None:
        """Note what a model holds; blocking where that is new."""
        key = _key(model, need)
        if self._bytes.get(key) == held_bytes:
            return
        self._bytes[key] = held_bytes
        if self._path is None:
            return
        new = self._path.with_suffix(".new")
        try:
            new.write_bytes(msgspec.json.format(msgspec.json.encode(self._bytes)))
            os.replace(new, self._path)  # noqa: PTH105 (whole or not at all)
        except OSError as error:
            log.warning("%s cannot be written: %s", self._path, error.strerror)


def _key(model: ResolvedModel, need: MemoryEstimate) -> str:
    return f"{model.id} {model.weights_sha256 or '-'} {need.setup}"
