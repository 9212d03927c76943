"""The folder of compiled kernels, one for each version of their sources and each target.

numba keeps machine code by the file that a kernel stands in and would use it on after a change in
another file that the kernel is made of.
"""

import hashlib
import os
from pathlib import Path

import numba

from service.torch_host.compiled.codegen.cpu_features import target


def use_cache() -> None:
    """Set numba's folder: `NUMBA_CACHE_DIR` or the user's cache folder, then sources and target."""
    digest = hashlib.sha256(repr((numba.__version__, target())).encode())
    for source in sorted(Path(__file__).parents[1].rglob("*.py")):
        digest.update(source.read_bytes())
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    root = Path(os.environ.get("NUMBA_CACHE_DIR") or home / "triptych" / "kernels")
    numba.config.CACHE_DIR = str(root / digest.hexdigest()[:16])  # type: ignore[attr-defined]
