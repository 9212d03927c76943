"""Qwen3-Next and the text model of Qwen3.5: gated delta rule, every fourth layer attention."""

from model_registry.architecture.config_reader import ConfigReader
from model_registry.architecture.layers import Layer, LayerMix, Weights
from model_registry.architecture.mixers import GatedDeltaNet
from model_registry.architecture.modules import (
    AttentionHeads,
    attention_layer,
    embeddings,
    gated_experts,
    gated_mlp,
    linear,
)

_KINDS = frozenset({"full_attention", "linear_attention"})


def read_qwen3_next(config: ConfigReader) -> LayerMix:
    """Qwen3-Next and Qwen3.5's text: gated delta rule, every fourth layer gated attention."""
    heads = AttentionHeads.of(config, head_dim=config.size("head_dim", default=256))
    hidden = heads.hidden
    mixer = GatedDeltaNet(
        hidden=hidden,
        key_heads=config.size("linear_num_key_heads"),
        value_heads=config.size("linear_num_value_heads"),
        key_dim=config.size("linear_key_head_dim"),
        value_dim=config.size("linear_value_head_dim"),
        conv=config.size("linear_conv_kernel_dim", default=4),
    )
    period = config.size("full_attention_interval", default=4)
    kinds = config.kinds("layer_types", allowed=_KINDS) or [
        "linear_attention" if (index + 1) % period else "full_attention"
        for index in range(config.layers())
    ]
    bias = config.flag("attention_bias", default=False)
    attention = heads.weights(bias=bias, query_factor=2) + 2 * heads.head_dim
    layers = []
    for index, kind in enumerate(kinds):
        outside = 2 * hidden + _qwen3_next_mlp(config, hidden, index)
        if kind == "full_attention":
            layers.append(attention_layer(heads.cache(), outside + attention))
        else:
            layers.append(
                Layer(
                    kinds=("ssm",),
                    weights=outside + mixer.weights(),
                    recurrent=mixer.cache(),
                )
            )
    return LayerMix(
        model_type=config.model_type,
        layers=tuple(layers),
        embeddings=embeddings(config, tied=False),
        norm=hidden,
    )


def _qwen3_next_mlp(config: ConfigReader, hidden: int, index: int) -> Weights:
    """Experts with a gated shared one, or a plain MLP; Qwen3.5's text model has no experts."""
    dense = config.model_type == "qwen3_5_text"
    experts = 0 if dense else config.count("num_experts", default=512)
    step = config.size("decoder_sparse_step", default=1)
    if not experts or index in config.indices("mlp_only_layers") or (index + 1) % step:
        return gated_mlp(hidden, config.size("intermediate_size"))
    return (
        gated_experts(
            hidden,
            config.size("moe_intermediate_size"),
            experts=experts,
            active=config.size("num_experts_per_tok", default=10),
        )
        + gated_mlp(hidden, config.size("shared_expert_intermediate_size"))
        + linear(hidden, 1)
    )
