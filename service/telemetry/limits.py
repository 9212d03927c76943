"""The file of the machine's measured limits, in the data folder."""

import logging
import os
from pathlib import Path
from typing import Final

import msgspec

from service.core.limits import MachineLimits

LIMITS_NAME: Final = "machine-limits.json"

log = logging.getLogger(__name__)


def read_limits(data_dir: Path) -> MachineLimits | None:
    """The stored limits; None where there are none, and, with a warning, where they are broken."""
    file = data_dir / LIMITS_NAME
    try:
        return msgspec.json.decode(file.read_bytes(), type=MachineLimits)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError) as error:
        log.warning("%s cannot be read: %s; run: triptych limits", file, error)
        return None


def write_limits(data_dir: Path, limits: MachineLimits) -> None:
    """Store limits, replacing those that were there at once. Raises OSError."""
    data_dir.mkdir(parents=True, exist_ok=True)
    staged = data_dir / f".{LIMITS_NAME}.{os.getpid()}"
    staged.write_bytes(msgspec.json.encode(limits))
    staged.replace(data_dir / LIMITS_NAME)
