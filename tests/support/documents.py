"""Extracts the examples of the documents and runs them against a service."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
ADDRESS = "http://127.0.0.1:8000"
"""Address of the service in every example."""

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def blocks(document: str) -> list[tuple[str, str]]:
    """Return language and text of every block of code, in order."""
    return _BLOCK.findall((ROOT / document).read_text())


def run(code: str, base_url: str, *, language: str = "sh") -> subprocess.CompletedProcess[str]:
    """Run an example to its end against the service at *base_url*."""
    command = [sys.executable, "-c"] if language == "python" else ["bash", "-c"]
    return subprocess.run(
        [*command, code.replace(ADDRESS, base_url)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        env={
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "TRIPTYCH_URL": base_url,
        },
    )
