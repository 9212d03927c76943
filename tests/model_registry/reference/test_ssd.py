"""The training scan and convolution against transformers' own."""

import pytest
import torch
from transformers.models.mamba2 import modeling_mamba2

from model_registry.reference.architectures import new_model
from model_registry.reference.ssd import causal_conv1d, chunk_scan, fast_mamba2


def scan_inputs(tokens, groups, heads=6, width=8, states=16, batch=2):
    """Random x, dt, A, B, C of the shapes a mixer passes, as leaves with gradients."""
    random = torch.Generator().manual_seed(tokens * groups)
    shapes = (
        (batch, tokens, heads, width),
        (batch, tokens, heads),
        (heads,),
        (batch, tokens, groups, states),
        (batch, tokens, groups, states),
    )
    x, dt, decay, b, c = (torch.randn(shape, generator=random) for shape in shapes)
    return [t.requires_grad_() for t in (x, dt, -decay.exp(), b, c)]


@pytest.mark.parametrize(("tokens", "groups"), [(1, 1), (64, 1), (100, 2), (200, 3)])
def test_scan_equals_transformers(tokens, groups):
    """Output and final state agree for whole and broken chunks and for grouped B and C."""
    inputs = scan_inputs(tokens, groups)
    bias = torch.linspace(-3, 0, 6)
    state = torch.randn(2, 6, 8, 16, generator=torch.Generator().manual_seed(1))
    options = {
        "chunk_size": 64,
        "D": torch.ones(6),
        "dt_bias": bias,
        "dt_softplus": True,
        "initial_states": state,
        "return_final_states": True,
    }
    y, final = chunk_scan(*inputs, **options)
    expected_y, expected_final = modeling_mamba2.mamba2_chunk_scan(*inputs, **options)
    torch.testing.assert_close(y, expected_y, atol=2e-4, rtol=2e-4)
    torch.testing.assert_close(final, expected_final, atol=2e-4, rtol=2e-4)


def test_scan_gradients_equal_transformers():
    """Training through either scan moves the weights alike."""
    gradients = []
    for scan in (chunk_scan, modeling_mamba2.mamba2_chunk_scan):
        inputs = scan_inputs(tokens=100, groups=2)
        y = scan(*inputs, chunk_size=64, dt_softplus=True)
        gradients.append(torch.autograd.grad(y.square().sum(), inputs))
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-3)


def test_convolution_equals_transformers():
    """Depthwise, causal, with bias and SiLU."""
    x, weight, bias = torch.randn(2, 5, 9), torch.randn(5, 4), torch.randn(5)
    expected = modeling_mamba2.causal_conv1d_fn(x, weight, bias, activation="silu")
    torch.testing.assert_close(causal_conv1d(x, weight, bias, activation="silu"), expected)


@pytest.mark.parametrize("architecture", ["ssm", "hybrid"])
def test_whole_model_is_unchanged_by_the_fast_scan(architecture):
    """The replacement reaches the mixers, gives their logits, and is undone afterwards."""
    model = new_model(architecture, 0).eval()
    ids = torch.randint(0, 2048, (2, 130), generator=torch.Generator().manual_seed(0))
    before = modeling_mamba2.mamba2_chunk_scan
    with torch.inference_mode():
        expected = model(ids, use_cache=False).logits
        with fast_mamba2():
            assert modeling_mamba2.mamba2_chunk_scan is chunk_scan
            logits = model(ids, use_cache=False).logits
    assert modeling_mamba2.mamba2_chunk_scan is before
    torch.testing.assert_close(logits, expected, atol=1e-3, rtol=1e-3)
