"""Jamba: Mamba-1 with attention every few layers, and experts every few."""

from model_registry.architecture.config_reader import ConfigReader
from model_registry.architecture.layers import Layer, LayerMix
from model_registry.architecture.mixers import Mamba1, time_step_rank
from model_registry.architecture.modules import (
    AttentionHeads,
    attention_layer,
    embeddings,
    gated_experts,
    gated_mlp,
)


def read_jamba(config: ConfigReader) -> LayerMix:
    """Mamba-1 with attention every `attn_layer_period`, experts every `expert_layer_period`."""
    heads = AttentionHeads.of(config)
    hidden = heads.hidden
    mixer = Mamba1(
        hidden=hidden,
        inner=config.size("mamba_expand", default=2) * hidden,
        state=config.size("mamba_d_state", default=16),
        rank=time_step_rank(config, "mamba_dt_rank", hidden),
        conv=config.size("mamba_d_conv", default=4),
        conv_bias=config.flag("mamba_conv_bias", default=True),
        projection_bias=config.flag("mamba_proj_bias", default=False),
    )
    norms_in_mixer = mixer.rank + 2 * mixer.state
    experts = config.count("num_experts", "num_local_experts", default=16)
    inner = config.size("intermediate_size")
    moe = gated_experts(
        hidden, inner, experts=experts, active=config.size("num_experts_per_tok", default=2)
    )
    layers = []
    for index in range(config.layers()):
        routed = experts > 1 and _falls_on(config, "expert_layer", index, period=2, offset=1)
        outside = 2 * hidden + (moe if routed else gated_mlp(hidden, inner))
        if _falls_on(config, "attn_layer", index, period=8, offset=4):
            layers.append(attention_layer(heads.cache(), outside + heads.weights()))
        else:
            weights = outside + mixer.weights() + norms_in_mixer
            layers.append(Layer(kinds=("ssm",), weights=weights, recurrent=mixer.cache()))
    return LayerMix(
        model_type=config.model_type,
        layers=tuple(layers),
        embeddings=embeddings(config, tied=False),
        norm=hidden,
    )


def _falls_on(config: ConfigReader, name: str, index: int, *, period: int, offset: int) -> bool:
    period = config.size(f"{name}_period", default=period)
    return index % period == config.count(f"{name}_offset", default=offset)
