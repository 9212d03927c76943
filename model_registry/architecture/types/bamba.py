"""Bamba: Mamba-2 layers with attention at some."""

from collections.abc import Sequence

from model_registry.architecture.config_reader import ConfigReader
from model_registry.architecture.layers import Layer, LayerMix, Weights
from model_registry.architecture.mixers import Mamba2
from model_registry.architecture.modules import (
    AttentionHeads,
    attention_layer,
    embeddings,
    gated_mlp,
)

KINDS = frozenset({"full_attention", "linear_attention"})


def alternating(
    config: ConfigReader,
    kinds: Sequence[str],
    heads: AttentionHeads,
    mixer: Mamba2,
    outside: Weights,
) -> tuple[Layer, ...]:
    """Layers of either attention or Mamba-2, each with *outside* weights of norms and MLP."""
    bias = config.flag("attention_bias", default=False)
    attention = attention_layer(heads.cache(), outside + heads.weights(bias=bias))
    recurrent = Layer(kinds=("ssm",), weights=outside + mixer.weights(), recurrent=mixer.cache())
    return tuple(attention if kind == "full_attention" else recurrent for kind in kinds)


def read_bamba(config: ConfigReader) -> LayerMix:
    """Mamba-2 layers with attention at `attn_layer_indices`."""
    heads = AttentionHeads.of(config)
    at = config.indices("attn_layer_indices")
    kinds = config.kinds("layer_types", "layers_block_type", allowed=KINDS) or [
        "full_attention" if index in at else "linear_attention" for index in range(config.layers())
    ]
    outside = 2 * heads.hidden + gated_mlp(
        heads.hidden,
        config.size("intermediate_size"),
        bias=config.flag("mlp_bias", default=False),
    )
    return LayerMix(
        model_type=config.model_type,
        layers=alternating(config, kinds, heads, Mamba2.of(config), outside),
        embeddings=embeddings(config, tied=False),
        norm=heads.hidden,
    )
