"""What the tiny models leave at its default: multipliers, biases and rare parts of the hybrids."""

import random
from typing import Any

import pytest
import torch
from torch.nn import functional

from model_registry.reference.ssd import causal_conv1d, chunk_scan
from support import tiny_models

TOKENS = 40
VARIANTS = {
    "biases of Mamba-2": ("mamba2", {"use_bias": True, "use_conv_bias": False}),
    "tied Mamba-2 with limited steps": (
        "mamba2",
        {"tie_word_embeddings": True, "time_step_limit": (0.3, 0.6)},
    ),
    "multipliers of Falcon-H1": (
        "falcon_h1",
        {
            "embedding_multiplier": 1.7,
            "lm_head_multiplier": 0.6,
            "mlp_multipliers": [0.7, 1.4],
            "key_multiplier": 0.5,
            "attention_in_multiplier": 1.3,
            "attention_out_multiplier": 0.8,
            "ssm_multipliers": [0.6, 1.5, 0.8, 1.2, 0.5],
            "ssm_in_multiplier": 0.9,
            "ssm_out_multiplier": 0.7,
            "attention_bias": True,
            "mlp_bias": True,
            "mamba_proj_bias": True,
            "projectors_bias": True,
        },
    ),
    "Falcon-H1 with the gate first": ("falcon_h1-norm", {"mamba_norm_before_gate": False}),
    "multipliers of Granite": (
        "granitemoehybrid-experts",
        {
            "embedding_multiplier": 2.5,
            "residual_multiplier": 0.4,
            "attention_multiplier": 0.2,
            "logits_scaling": 0.8,
            "attention_bias": True,
            "mamba_proj_bias": True,
        },
    ),
    "narrow experts of Nemotron-H": ("nemotron_h", {"moe_latent_size": 32, "mlp_bias": True}),
    "Zamba2 without adapters of attention": (
        "zamba2",
        {
            "use_shared_attention_adapter": False,
            "use_mem_rope": False,
            "num_mem_blocks": 1,
            "hidden_act": "silu",
            "add_bias_linear": True,
        },
    ),
}


@pytest.mark.parametrize(("name", "changes"), VARIANTS.values(), ids=VARIANTS)
@torch.inference_mode()
def test_it_equals_transformers(name, changes):
    """Every token's logits are those of transformers' own forward pass."""
    network = tiny_models.network(name, **changes)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        for key, weight in network.named_parameters():
            if "bias" in key:
                weight.normal_(0, 0.3)
    tokens = random.Random(4).choices(range(3, 100), k=TOKENS)
    expected = network(torch.tensor([tokens])).logits[0]

    model = tiny_models.compiled(network, name)
    slot = model.take()

    found = model.prefill(slot, tokens, every_logit=True)
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=0)


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float, groups: int = 1) -> torch.Tensor:
    parts = x.unflatten(-1, (groups, -1))
    return (parts / (parts.pow(2).mean(-1, keepdim=True) + eps).sqrt()).flatten(-2) * weight


def mixed(mixer: Any, x: torch.Tensor, groups: int) -> torch.Tensor:
    """Mamba-2's mixer as its authors publish it, by the reference models' own scan."""
    heads, size, states = mixer.num_heads, mixer.head_dim, mixer.ssm_state_size
    width = heads * size
    gate, xbc, dt = mixer.in_proj(x).split([width, width + 2 * groups * states, heads], dim=-1)
    weight, bias = mixer.conv1d.weight.squeeze(1), mixer.conv1d.bias
    xbc = causal_conv1d(xbc.transpose(1, 2), weight, bias, "silu").transpose(1, 2)
    inner, b, c = xbc.split([width, groups * states, groups * states], dim=-1)
    scanned = chunk_scan(
        inner.unflatten(-1, (heads, size)),
        dt,
        -mixer.A_log.exp(),
        b.unflatten(-1, (groups, states)),
        c.unflatten(-1, (groups, states)),
        D=mixer.D,
        dt_bias=mixer.dt_bias,
        dt_softplus=True,
    )
    gated = scanned.flatten(-2) * functional.silu(gate)
    return mixer.out_proj(rms_norm(gated, mixer.norm.weight, mixer.norm.variance_epsilon, groups))


@pytest.mark.parametrize("groups", [1, 2, 4])
@torch.inference_mode()
def test_it_equals_the_reference_trainings_own_scan(groups):
    """Each group of a gated norm is normalized for itself, whatever transformers does with it.

    transformers before 5.23 normalized whole rows, and as the only oracle it hid that.
    """
    network = tiny_models.network("mamba2", n_groups=groups)
    with torch.random.fork_rng():
        torch.manual_seed(6)
        for layer in network.backbone.layers:
            layer.mixer.norm.weight.uniform_(0.5, 2)
    tokens = random.Random(4).choices(range(3, 100), k=TOKENS)
    eps = network.config.layer_norm_epsilon
    stream = network.backbone.embeddings.weight[torch.tensor([tokens])]
    for layer in network.backbone.layers:
        stream = stream + mixed(layer.mixer, rms_norm(stream, layer.norm.weight, eps), groups)
    expected = network.lm_head(rms_norm(stream, network.backbone.norm_f.weight, eps))[0]

    model = tiny_models.compiled(network, "mamba2")
    found = model.prefill(model.take(), tokens, every_logit=True)

    torch.testing.assert_close(found, expected, atol=2e-3, rtol=0)
