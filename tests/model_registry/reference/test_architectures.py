"""The three architectures: comparable in size, different in their mixers."""

import pytest
import torch

from model_registry.reference.architectures import (
    CONFIGS,
    PREVIOUS_TOKEN_HEADS,
    hybrid_config,
    new_model,
    parameter_count,
)


def test_parameter_counts_are_within_one_percent():
    """Differences in quality are not differences in size."""
    counts = [parameter_count(new_model(architecture, 0)) for architecture in CONFIGS]
    assert max(counts) / min(counts) < 1.01
    assert all(1_500_000 <= count <= 4_000_000 for count in counts)


@pytest.mark.parametrize("architecture", CONFIGS)
def test_initial_weights_are_seeded(architecture):
    """The same seed gives the same weights, another seed others."""
    first, again, other = (new_model(architecture, seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_mamba_starts_with_a_long_memory():
    """The step sizes lie in the Mamba-2 paper's range; transformers' default of 1 forgets."""
    state = new_model("hybrid", 0).state_dict()
    steps = [torch.nn.functional.softplus(state[n]) for n in state if n.endswith("dt_bias")]
    assert steps
    assert all(step.min() > 0.00099 and step.max() < 0.101 for step in steps)


def test_hybrid_is_mostly_mamba():
    """One block of attention among Mamba-2 blocks, and no experts."""
    config = hybrid_config()
    assert config.layer_types.count("full_attention") == 1
    assert config.layer_types.count("linear_attention") == config.num_hidden_layers - 1
    assert config.num_local_experts == 0


def test_first_heads_start_on_the_previous_token():
    """Untrained, they give it most of their attention, as a short convolution would."""
    model = new_model("transformer", 0)
    model.set_attn_implementation("eager")
    ids = torch.randint(0, 2048, (1, 32), generator=torch.Generator().manual_seed(0))
    heads = model(input_ids=ids, output_attentions=True).attentions[0][0]
    previous = heads.diagonal(offset=-1, dim1=1, dim2=2)
    assert previous[:PREVIOUS_TOKEN_HEADS].mean() > 0.8
    assert previous[PREVIOUS_TOKEN_HEADS:].mean() < 0.3
