"""Progress of a pull."""

from collections.abc import Callable
from typing import Literal

from msgspec import Struct


class PullProgress(Struct, frozen=True, kw_only=True):
    """A step of a pull; `done_bytes` grows over the steps of one `stage` and `file`."""

    stage: Literal["note", "download", "convert", "verify"]
    """`note` carries a message for the operator only, such as why a source failed."""
    file: str = ""
    done_bytes: int = 0
    total_bytes: int | None = None
    """None when the size is not known."""
    message: str = ""


Report = Callable[[PullProgress], None]
