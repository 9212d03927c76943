"""Debug mode: kernels as Python that checks every access, in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from support import tiny_models

ROOT = Path(__file__).parents[4]
PROMPT = [5, 99, 17, 3, 64]
NAMES = (
    "llama",
    "phi3-window",
    "phimoe",
    "gemma3_text",
    "mamba",
    "mamba2",
    "jamba-experts",
    "falcon_h1-norm",
    "granitemoehybrid-experts",
    "zamba2",
    "nemotron_h",
    "lfm2",
    "qwen3_next",
)
#: Of one layer: rounded activations would part the two for good where a number lies on the edge.
VARIANTS = ("bfloat16", "int8", "int4", "gguf")
#: Answers as JSON, by the name of a model and of its variant.
ANSWERS = """
import json
import sys

import torch

from support import tiny_models

sys.path.insert(0, "tests/service/torch_host/compiled")
from test_debug_mode import answer

print(json.dumps({" ".join(case): answer(*case).tolist() for case in json.loads(sys.argv[1])}))
"""
OUT_OF_BOUNDS = """
import torch

from service.torch_host.compiled.codegen.scalars import float32s
from service.torch_host.compiled.formats.floats import FLOAT32
from service.torch_host.compiled.kernel import Kernel
from service.torch_host.compiled.program import Program


@Kernel
def _shift(batch_head, thread, threads, x, width, out):
    source, target = float32s(x), float32s(out)
    for i in range(width):
        target[i] = source[i + 1]


program = Program(FLOAT32, max_tokens=1, threads=1)
x = program.vector(torch.arange(4.0))
beside = [program.vector(torch.zeros(64)) for _ in range(8)]
program.add(_shift, x=x, width=4, out=program.buffer("out", 16))
program.finish()
program.run()
"""


def in_debug_mode(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join((str(ROOT), str(ROOT / "tests")))
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env=os.environ | {"PYTHONPATH": paths, "TRIPTYCH_KERNELS": "debug"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def answer(name: str, kind: str) -> torch.Tensor:
    """Logits of a prompt, then of one more token."""
    changes: dict[str, Any] = {} if kind == "float32" else {"num_hidden_layers": 1}
    dtype = torch.float32 if kind == "float32" else torch.bfloat16
    network = tiny_models.network(name, dtype=dtype, **changes)
    quantization = None if kind in ("float32", "bfloat16") else kind
    model = tiny_models.compiled(network, name, threads=2, quantization=quantization)
    slot = model.take()
    prompt = model.prefill(slot, PROMPT, every_logit=True)
    return torch.cat([prompt, model.decode([slot], [8])])


@pytest.fixture(scope="module")
def debugged() -> dict[str, list[list[float]]]:
    cases = [(name, "float32") for name in NAMES] + [("llama", kind) for kind in VARIANTS]
    ended = in_debug_mode(ANSWERS, json.dumps(cases))
    assert ended.returncode == 0, ended.stderr
    answers: dict[str, list[list[float]]] = json.loads(ended.stdout)
    return answers


@pytest.mark.parametrize(
    ("name", "kind"),
    [*((name, "float32") for name in NAMES), *(("llama", kind) for kind in VARIANTS)],
)
def test_interpreted_kernels_answer_as_the_compiled_ones(name, kind, debugged):
    """No kernel leaves the memory of its operands, and machine code computes what Python does."""
    found = torch.tensor(debugged[f"{name} {kind}"])

    tolerance = 2e-3 if kind == "float32" else 2e-2
    torch.testing.assert_close(found, answer(name, kind), atol=tolerance, rtol=0)


def test_an_access_out_of_bounds_names_kernel_and_operand():
    """Also where other memory of the program follows at once."""
    ended = in_debug_mode(OUT_OF_BOUNDS)

    assert "IndexError: shift: 4 bytes at x +16 are not within its memory, 16 bytes" in ended.stderr
