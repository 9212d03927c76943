"""Validation of file names from other parties before anything is written under them."""

import reprlib
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from model_registry.errors import CorruptFile

_LONGEST_BYTES: Final = 200
"""Leaves room for `.part` within the 255 bytes of common file systems."""
#: Windows opens these as devices, whatever follows the first dot.
_DEVICES: Final = frozenset(
    {"con", "prn", "aux", "nul", "conin$", "conout$"}
    | {f"{port}{number}" for port in ("com", "lpt") for number in range(10)}
)


def check_listed_names(where: str, names: Iterable[str]) -> None:
    """Refuse a listing that names a path outside its own folder.

    Subfolders are allowed: repositories have them, and nothing of them is fetched.

    Raises:
        CorruptFile: A name is empty, absolute, or has `..`, a backslash or a control character.
    """
    for name in names:
        parts = name.split("/")
        if not name or not name.isprintable() or "\\" in name or {"", ".", ".."} & set(parts):
            raise CorruptFile(
                f"{where}: names a file {reprlib.repr(name)}, which is not a path inside it; "
                "nothing was written"
            )


def check_file_name(where: str, name: str) -> None:
    """Refuse a name that is not that of a plain file right in a folder.

    Raises:
        CorruptFile: The name leads elsewhere, names a device, or is too long.
    """
    check_listed_names(where, [name])
    device = name.partition(".")[0].strip().lower() in _DEVICES
    elsewhere = "/" in name or ":" in name or name.startswith(".")
    if device or elsewhere or len(name.encode("utf-8", "replace")) > _LONGEST_BYTES:
        raise CorruptFile(
            f"{where}: {reprlib.repr(name)} is not the name of a plain file; nothing was written"
        )


def check_not_a_link(path: Path) -> None:
    """Refuse to write where a symbolic link would lead elsewhere. Raises CorruptFile."""
    if path.is_symlink():
        raise CorruptFile(f"{path}: is a symbolic link; delete it and pull again")
