"""Granite 4: Mamba-2 or attention, with a shared MLP and experts."""

from model_registry.architecture.config_reader import ConfigReader
from model_registry.architecture.layers import LayerMix
from model_registry.architecture.mixers import Mamba2
from model_registry.architecture.modules import AttentionHeads, embeddings, gated_experts, gated_mlp
from model_registry.architecture.types.bamba import KINDS, alternating


def read_granite(config: ConfigReader) -> LayerMix:
    """Granite 4: Mamba-2 or attention; a shared MLP, beside it experts if there are any."""
    heads = AttentionHeads.of(config)
    kinds = config.kinds("layer_types", "layers_block_type", allowed=KINDS)
    if kinds is None:
        kinds = ["linear_attention"] * config.layers()
    outside = 2 * heads.hidden + gated_mlp(heads.hidden, config.size("shared_intermediate_size"))
    if experts := config.count("num_local_experts", default=8):
        outside += gated_experts(
            heads.hidden,
            config.size("intermediate_size"),
            experts=experts,
            active=config.count("num_experts_per_tok", default=2),
        )
    return LayerMix(
        model_type=config.model_type,
        layers=alternating(config, kinds, heads, Mamba2.of(config), outside),
        embeddings=embeddings(config, tied=False),
        norm=heads.hidden,
    )
