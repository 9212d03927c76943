"""The gates of Mamba-2's mixers as instructions, held against plain torch and transformers."""

import pytest
import torch
from torch.nn.functional import gelu, silu
from transformers.models.falcon_h1.modeling_falcon_h1 import FalconH1RMSNormGated

from service.torch_host.compiled.formats.floats import BFLOAT16, FLOAT32
from service.torch_host.compiled.formats.format import Format
from service.torch_host.compiled.ops.activations import Activation, act_and_mul
from service.torch_host.compiled.ops.gated_norm import gated_norm
from service.torch_host.compiled.program import Program
from support.one_pass import filled, rows, run

TOKENS, WIDTH, EPS = 9, 96, 1e-5


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(TOKENS, WIDTH, generator=torch.Generator().manual_seed(1)) * 2


@pytest.fixture
def gates() -> torch.Tensor:
    return torch.randn(TOKENS, WIDTH, generator=torch.Generator().manual_seed(2)) * 2


@pytest.fixture
def weight() -> torch.Tensor:
    return torch.rand(WIDTH, generator=torch.Generator().manual_seed(3)) + 0.5


def normed(
    x: torch.Tensor,
    gates: torch.Tensor,
    weight: torch.Tensor | None,
    *,
    kind: Format = FLOAT32,
    **options: object,
) -> torch.Tensor:
    program = Program(kind, max_tokens=TOKENS, threads=2)
    out = program.operand_buffer("out", WIDTH)
    buffers = filled(program, "x", x), filled(program, "gates", gates)
    gated_norm(program, *buffers, weight, out, eps=EPS, **options)
    program.finish()
    run(program, [(0, TOKENS)])
    return rows(program, out, kind.dtype)


def rms_norm(x: torch.Tensor, weight: torch.Tensor, groups: int) -> torch.Tensor:
    parts = x.view(TOKENS, groups, -1)
    return (parts / (parts.pow(2).mean(-1, keepdim=True) + EPS).sqrt()).flatten(1) * weight


@pytest.mark.parametrize("groups", [1, 3])
def test_the_gate_goes_before_the_norm(x, gates, weight, groups):
    """Each group of a row is normalized for itself, after the gate."""
    found = normed(x, gates, weight, groups=groups)

    torch.testing.assert_close(found, rms_norm(x * silu(gates), weight, groups))


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("norm_before_gate", [True, False])
def test_it_is_the_norm_of_falcon_h1(x, gates, weight, groups, norm_before_gate):
    """In either order."""
    norm = FalconH1RMSNormGated(WIDTH, EPS, groups, norm_before_gate)
    norm.weight.data = weight

    found = normed(x, gates, weight, groups=groups, norm_before_gate=norm_before_gate)

    torch.testing.assert_close(found, norm(x[None], gates[None])[0])


@pytest.mark.parametrize("norm_before_gate", [True, False])
def test_without_weights_there_is_only_the_gate(x, gates, norm_before_gate):
    """Falcon-H1 has no norm there unless it says so."""
    found = normed(x, gates, None, norm_before_gate=norm_before_gate)

    torch.testing.assert_close(found, x * silu(gates))


def test_gates_are_scaled_before_their_function(x, gates, weight):
    """The multiplier of Falcon-H1 belongs to the projection."""
    found = normed(x, gates, weight, gate_scale=0.3)

    torch.testing.assert_close(found, rms_norm(x * silu(gates * 0.3), weight, 1))


def test_the_result_is_an_operand(x, gates, weight):
    """Products of bfloat16 read it rounded once."""
    found = normed(x, gates, weight, kind=BFLOAT16)

    expected = rms_norm(x * silu(gates), weight, 1)
    torch.testing.assert_close(found.float(), expected, atol=1e-6, rtol=2**-8)


def test_gelu_is_the_exact_one(x, gates):
    """Zamba2's MLPs open with the error function, at both ends of its range too."""
    gates[0] = torch.linspace(-30, 30, WIDTH)
    program = Program(FLOAT32, max_tokens=TOKENS, threads=2)
    out = program.operand_buffer("out", WIDTH)
    opened, values = filled(program, "gates", gates), filled(program, "x", x)
    act_and_mul(program, opened, values, out, Activation.GELU)
    program.finish()
    run(program, [(0, TOKENS)])

    torch.testing.assert_close(rows(program, out), gelu(gates) * x, atol=5e-6, rtol=1e-5)
