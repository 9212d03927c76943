"""LFM2: short convolutions with attention at some layers."""

import math

from model_registry.architecture.config_reader import ConfigReader
from model_registry.architecture.layers import Layer, LayerMix, Recurrent
from model_registry.architecture.modules import (
    AttentionHeads,
    attention_layer,
    embeddings,
    gated_mlp,
    linear,
)

_KINDS = frozenset({"full_attention", "conv"})


def _lfm2_inner(config: ConfigReader) -> int:
    """Width of the MLP: `block_auto_adjust_ff_dim` takes two thirds, rounded up."""
    inner = config.size("block_ff_dim", "intermediate_size")
    if not config.flag("block_auto_adjust_ff_dim", default=True):
        return inner
    inner = 2 * inner // 3
    factor = config.factor("block_ffn_dim_multiplier", default=1.0)
    if factor is None:
        return inner
    multiple = config.size("block_multiple_of", default=256)
    return multiple * math.ceil(int(factor * inner) / multiple)


def read_lfm2(config: ConfigReader) -> LayerMix:
    """Short convolutions with attention at some layers; Q and K normed."""
    heads = AttentionHeads.of(config)
    hidden = heads.hidden
    at = config.indices("full_attn_idxs")
    kinds = config.kinds("layer_types", allowed=_KINDS) or [
        "full_attention" if index in at or not at else "conv" for index in range(config.layers())
    ]
    outside = gated_mlp(hidden, _lfm2_inner(config)) + 2 * hidden
    columns = config.size("conv_L_cache", default=3)
    bias = config.flag("conv_bias", default=False)
    conv = Layer(
        kinds=("conv",),
        weights=outside
        + hidden * columns
        + (hidden if bias else 0)
        + linear(hidden, 3 * hidden, bias=bias)
        + linear(hidden, hidden, bias=bias),
        recurrent=Recurrent(conv_channels=hidden, conv_columns=columns, conv_taps=columns),
    )
    attention = attention_layer(heads.cache(), outside + heads.weights() + 2 * heads.head_dim)
    tied = config.flag("tie_embedding", default=True)
    return LayerMix(
        model_type=config.model_type,
        layers=tuple(attention if kind == "full_attention" else conv for kind in kinds),
        embeddings=embeddings(config, tied=tied),
        norm=hidden,
    )
