"""The team of threads that runs a program, in processes whose OpenMP has limits."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import sys
import torch
from support import tiny_models

logits = []
for threads in (1, 4):
    network = tiny_models.network("llama", dtype=torch.bfloat16)
    model = tiny_models.compiled(network, "llama", slots=1, threads=threads)
    model._alone = False
    slot = model.take()
    parts = [model.prefill(slot, list(range(3, 80)), every_logit=True)]
    parts += [model.decode([slot], [token]) for token in (9, 7, 5)]
    logits.append(torch.cat(parts))
sys.exit(0 if torch.equal(*logits) else "the answers differ")
"""
ROOT = Path(__file__).parents[4]


@pytest.mark.parametrize("limit", [{"OMP_THREAD_LIMIT": "1"}, {"OMP_DYNAMIC": "true"}, {}], ids=str)
def test_fewer_threads_than_asked_for_compute_everything(limit):
    """Where OpenMP grants fewer threads, those that run take the whole work.

    Threads once divided rows by the number that was asked for, and nobody computed the rest.
    """
    paths = os.pathsep.join((str(ROOT), str(ROOT / "tests")))
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=os.environ | {"PYTHONPATH": paths} | limit,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert ended.returncode == 0, ended.stderr
