"""Phi-3: Llama with joined projections, possibly with a window in all layers."""

from model_registry.architecture.config_reader import ConfigReader
from model_registry.architecture.layers import Embeddings, LayerMix, Weights
from model_registry.architecture.modules import (
    AttentionHeads,
    attention_layer,
    embeddings,
    gated_mlp,
)


def _window(config: ConfigReader) -> int | None:
    """The sliding window; one as long as the context never slides and counts as full attention."""
    window = config.optional_size("sliding_window")
    context = config.optional_size("max_position_embeddings")
    return None if window is None or (context is not None and window >= context) else window


def uniform(
    config: ConfigReader, heads: AttentionHeads, weights: Weights, around: Embeddings, *, norm: int
) -> LayerMix:
    """Equal attention layers, with a window if the config has one."""
    layer = attention_layer(heads.cache(_window(config)), weights)
    return LayerMix(
        model_type=config.model_type,
        layers=(layer,) * config.layers(),
        embeddings=around,
        norm=norm,
    )


def read_phi3(config: ConfigReader) -> LayerMix:
    """As Llama with joined projections, which count the same; possibly a window in all layers."""
    heads = AttentionHeads.of(config)
    weights = (
        heads.weights()
        + gated_mlp(heads.hidden, config.size("intermediate_size"))
        + 2 * heads.hidden
    )
    return uniform(config, heads, weights, embeddings(config, tied=False), norm=heads.hidden)
