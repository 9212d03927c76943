"""Phi-3.5-MoE: experts in place of the MLP, layer norms with bias."""

from model_registry.architecture.config_reader import ConfigReader
from model_registry.architecture.layers import LayerMix
from model_registry.architecture.modules import AttentionHeads, embeddings, gated_experts
from model_registry.architecture.types.phi3 import uniform


def read_phimoe(config: ConfigReader) -> LayerMix:
    """Experts in place of the MLP; layer norms with bias."""
    heads = AttentionHeads.of(config)
    weights = (
        heads.weights(bias=config.flag("attention_bias", default=False))
        + gated_experts(
            heads.hidden,
            config.size("intermediate_size"),
            experts=config.size("num_local_experts"),
            active=config.size("num_experts_per_tok", default=2),
        )
        + 4 * heads.hidden
    )
    around = embeddings(config, tied=False, head_bias=config.flag("lm_head_bias", default=False))
    return uniform(config, heads, weights, around, norm=2 * heads.hidden)
