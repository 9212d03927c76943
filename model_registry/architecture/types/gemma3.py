"""Gemma 3: window attention, every sixth layer full."""

from model_registry.architecture.config_reader import ConfigReader
from model_registry.architecture.layers import LayerMix
from model_registry.architecture.modules import (
    AttentionHeads,
    attention_layers,
    embeddings,
    gated_mlp,
)

_KINDS = frozenset({"full_attention", "sliding_attention"})


def read_gemma3(config: ConfigReader) -> LayerMix:
    """Window attention, every sixth layer full by default; four norms, Q and K normed."""
    heads = AttentionHeads.of(config)
    period = config.size("sliding_window_pattern", "_sliding_window_pattern", default=6)
    kinds = config.kinds("layer_types", allowed=_KINDS) or [
        "sliding_attention" if (index + 1) % period else "full_attention"
        for index in range(config.layers())
    ]
    weights = (
        heads.weights(bias=config.flag("attention_bias", default=False))
        + 2 * heads.head_dim
        + gated_mlp(heads.hidden, config.size("intermediate_size"))
        + 4 * heads.hidden
    )
    return LayerMix(
        model_type=config.model_type,
        layers=attention_layers(config, kinds, heads, weights),
        embeddings=embeddings(config, tied=True),
        norm=heads.hidden,
    )
