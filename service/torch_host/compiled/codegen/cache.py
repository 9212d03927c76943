"""Where compiled kernels are kept between starts: a folder for each version of their sources.

numba keeps machine code by the file that a kernel stands in and would use it on after a change in
another file that the kernel is made of.
"""

import hashlib
import os
from pathlib import Path

import numba


def use_cache() -> None:
    """Set numba's folder: `NUMBA_CACHE_DIR` or the user's cache folder, then the sources' hash."""
    digest = hashlib.sha256()
    for source in sorted(Path(__file__).parents[1].rglob("*.py")):
        digest.update(source.read_bytes())
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    root = Path(os.environ.get("NUMBA_CACHE_DIR") or home / "triptych" / "kernels")
    numba.config.CACHE_DIR = str(root / digest.hexdigest()[:16])  # type: ignore[attr-defined]
