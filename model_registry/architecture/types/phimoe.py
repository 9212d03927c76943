"""Phi-3.5-MoE: experts in place of the MLP, layer norms with bias."""

from model_registry.architecture.config_reader import ConfigReader
from model_registry.architecture.layers import LayerMix
from model_registry.architecture.modules import AttentionHeads, embeddings, gated_experts
from model_registry.architecture.types.phi3 import uniform


def read_phimoe(config: ConfigReader) -> LayerMix:
    """Experts in place of the MLP; layer norms with bias."""
    heads = AttentionHeads.of(config)
    parameters = (
        heads.parameters(bias=config.flag("attention_bias", default=False))
        + gated_experts(
            heads.hidden, config.size("intermediate_size"), config.size("num_local_experts")
        )
        + 4 * heads.hidden
    )
    shared = embeddings(config, tied=False, head_bias=config.flag("lm_head_bias", default=False))
    return uniform(config, heads, parameters, shared + 2 * heads.hidden)
