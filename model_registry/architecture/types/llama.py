"""Llama, Qwen2 and Qwen3: attention and a gated MLP in every layer."""

from model_registry.architecture.config_reader import ConfigReader
from model_registry.architecture.layers import LayerMix
from model_registry.architecture.modules import (
    AttentionHeads,
    attention_layer,
    attention_layers,
    embeddings,
    gated_mlp,
)

_KINDS = frozenset({"full_attention", "sliding_attention"})


def read_llama(config: ConfigReader) -> LayerMix:
    """Attention and gated MLP, two norms; no window."""
    heads = AttentionHeads.of(config)
    weights = (
        heads.weights(bias=config.flag("attention_bias", default=False))
        + gated_mlp(
            heads.hidden,
            config.size("intermediate_size"),
            bias=config.flag("mlp_bias", default=False),
        )
        + 2 * heads.hidden
    )
    return LayerMix(
        model_type=config.model_type,
        layers=(attention_layer(heads.cache(), weights),) * config.layers(),
        embeddings=embeddings(config, tied=False),
        norm=heads.hidden,
    )


def _qwen_kinds(config: ConfigReader) -> list[str]:
    """A window from layer `max_window_layers` on, if `use_sliding_window`."""
    if not config.flag("use_sliding_window", default=False):
        return ["full_attention"] * config.layers()
    first = config.count("max_window_layers", default=28)
    return config.kinds("layer_types", allowed=_KINDS) or [
        "sliding_attention" if index >= first else "full_attention"
        for index in range(config.layers())
    ]


def read_qwen2(config: ConfigReader) -> LayerMix:
    """As Llama, with biases on Q, K and V."""
    heads = AttentionHeads.of(config)
    weights = (
        heads.weights(bias=True, output_bias=False)
        + gated_mlp(heads.hidden, config.size("intermediate_size"))
        + 2 * heads.hidden
    )
    return LayerMix(
        model_type=config.model_type,
        layers=attention_layers(config, _qwen_kinds(config), heads, weights),
        embeddings=embeddings(config, tied=False),
        norm=heads.hidden,
    )


def read_qwen3(config: ConfigReader) -> LayerMix:
    """As Llama, with Q and K normed; heads of 128 unless told otherwise."""
    heads = AttentionHeads.of(config, head_dim=config.size("head_dim", default=128))
    weights = (
        heads.weights(bias=config.flag("attention_bias", default=False))
        + 2 * heads.head_dim
        + gated_mlp(heads.hidden, config.size("intermediate_size"))
        + 2 * heads.hidden
    )
    return LayerMix(
        model_type=config.model_type,
        layers=attention_layers(config, _qwen_kinds(config), heads, weights),
        embeddings=embeddings(config, tied=False),
        norm=heads.hidden,
    )
