"""What configs may ask of an architecture beside what the tiny models do, against transformers."""

import pytest
import torch

from service.torch_host.compiled.architectures import covered
from support import tiny_models

TOKEN_IDS = [5, 99, 17, 3, 64, 120, 8, 41, 77, 23, 90, 12]
ROPE = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("llama", {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}),
        ("phi3", {"rope_parameters": ROPE}),
        ("phimoe", {"attention_bias": True, "lm_head_bias": True}),
        ("phimoe", {"tie_word_embeddings": True, "lm_head_bias": True, "sliding_window": 8}),
        ("qwen3", {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}),
        ("gemma3_text", {"tie_word_embeddings": True, "query_pre_attn_scalar": 7}),
    ],
    ids=str,
)
@torch.inference_mode()
def test_variants_equal_transformers(name, changes):
    """Biases, tied heads, windows and parts of heads: the logits are those of transformers."""
    network = with_biases(tiny_models.network(name, **changes))
    expected = network(torch.tensor([TOKEN_IDS])).logits[0]

    model = tiny_models.compiled(network, name)
    found = model.prefill(model.take(), TOKEN_IDS, every_logit=True)

    torch.testing.assert_close(found, expected, atol=2e-3, rtol=0)


def with_biases(network: torch.nn.Module) -> torch.nn.Module:
    """The network, with no bias and no norm's weight left as it was initialized."""
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(11)
        for weight in network.parameters():
            if weight.ndim == 1:
                weight.add_(torch.randn_like(weight), alpha=0.3)
    return network


def test_capped_logits_have_no_program():
    """A cap that the kernels would leave out is a reason to run transformers' own code."""
    config = tiny_models.config("gemma3_text", final_logit_softcapping=30.0)

    assert "final_logit_softcapping" in (covered(config) or "")
