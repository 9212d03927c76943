"""Detection of the vLLM environment for tests of the real vLLM, and their skip reason."""

import os
from pathlib import Path

import pytest

_MADE = Path(".venv-vllm/bin/python").absolute()

PYTHON = os.environ.get("TRIPTYCH_VLLM_PYTHON") or (str(_MADE) if _MADE.is_file() else None)

#: A start takes half a minute on a quiet machine.
MARKS = [
    pytest.mark.vllm,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        PYTHON is None,
        reason="vLLM was not tested: run `make vllm`, or set TRIPTYCH_VLLM_PYTHON",
    ),
]
