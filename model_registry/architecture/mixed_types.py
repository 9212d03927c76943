"""Readers of the types that mix attention with short convolutions, gated delta rules or RG-LRUs."""

import math
from collections.abc import Callable

from model_registry.architecture.hybrid_types import check_kinds
from model_registry.architecture.layers import Layer, LayerMix, Recurrent
from model_registry.architecture.modules import (
    AttentionHeads,
    GatedDeltaNet,
    embeddings,
    gated_experts,
    gated_mlp,
    linear,
)
from model_registry.architecture.numbers import Numbers
from model_registry.architecture.transformer_types import attention_layer


def _lfm2_inner(numbers: Numbers) -> int:
    """Width of the MLP: `block_auto_adjust_ff_dim` takes two thirds, rounded up."""
    inner = numbers.whole("block_ff_dim", "intermediate_size")
    if not numbers.flag("block_auto_adjust_ff_dim", default=True):
        return inner
    inner = 2 * inner // 3
    factor = numbers.config.get("block_ffn_dim_multiplier", 1.0)
    if factor is None:
        return inner
    multiple = numbers.whole("block_multiple_of", default=256)
    return multiple * math.ceil(int(factor * inner) / multiple)


def read_lfm2(numbers: Numbers) -> LayerMix:
    """Short convolutions with attention at some layers; Q and K normed."""
    heads = AttentionHeads.of(numbers)
    hidden = heads.hidden
    at = numbers.indices("full_attn_idxs")
    kinds = numbers.kinds("layer_types") or [
        "full_attention" if index in at or not at else "conv"
        for index in range(numbers.whole("num_hidden_layers"))
    ]
    check_kinds(numbers, kinds, frozenset({"full_attention", "conv"}))
    outside = gated_mlp(hidden, _lfm2_inner(numbers)) + 2 * hidden
    columns = numbers.whole("conv_L_cache", default=3)
    bias = numbers.flag("conv_bias", default=False)
    conv = Layer(
        kinds=("conv",),
        parameters=outside
        + hidden * columns
        + (hidden if bias else 0)
        + linear(hidden, 3 * hidden, bias=bias)
        + linear(hidden, hidden, bias=bias),
        recurrent=Recurrent(conv_channels=hidden, conv_columns=columns),
    )
    attention = attention_layer(heads.cache(), outside + heads.parameters() + 2 * heads.head_dim)
    tied = numbers.flag("tie_embedding", default=True)
    return LayerMix(
        model_type=numbers.model_type,
        layers=tuple(attention if kind == "full_attention" else conv for kind in kinds),
        shared_parameters=embeddings(numbers, tied=tied) + hidden,
    )


def read_qwen3_next(numbers: Numbers) -> LayerMix:
    """Qwen3-Next and Qwen3.5's text: gated delta rule, every fourth layer gated attention."""
    heads = AttentionHeads.of(numbers, head_dim=numbers.whole("head_dim", default=256))
    hidden = heads.hidden
    mixer = GatedDeltaNet(
        hidden=hidden,
        key_heads=numbers.whole("linear_num_key_heads"),
        value_heads=numbers.whole("linear_num_value_heads"),
        key_dim=numbers.whole("linear_key_head_dim"),
        value_dim=numbers.whole("linear_value_head_dim"),
        conv=numbers.whole("linear_conv_kernel_dim", default=4),
    )
    period = numbers.whole("full_attention_interval", default=4)
    kinds = numbers.kinds("layer_types") or [
        "linear_attention" if (index + 1) % period else "full_attention"
        for index in range(numbers.whole("num_hidden_layers"))
    ]
    check_kinds(numbers, kinds, frozenset({"full_attention", "linear_attention"}))
    bias = numbers.flag("attention_bias", default=False)
    attention = heads.parameters(bias=bias, query_factor=2) + 2 * heads.head_dim
    layers = []
    for index, kind in enumerate(kinds):
        outside = 2 * hidden + _qwen3_next_mlp(numbers, hidden, index)
        if kind == "full_attention":
            layers.append(attention_layer(heads.cache(), outside + attention))
        else:
            layers.append(
                Layer(
                    kinds=("ssm",),
                    parameters=outside + mixer.parameters(),
                    recurrent=mixer.cache(),
                )
            )
    return LayerMix(
        model_type=numbers.model_type,
        layers=tuple(layers),
        shared_parameters=embeddings(numbers, tied=False) + hidden,
    )


def _qwen3_next_mlp(numbers: Numbers, hidden: int, index: int) -> int:
    """Experts with a gated shared one, or a plain MLP; Qwen3.5's text model has no experts."""
    dense = numbers.model_type == "qwen3_5_text"
    experts = 0 if dense else numbers.whole("num_experts", default=512)
    step = numbers.whole("decoder_sparse_step", default=1)
    if not experts or index in numbers.indices("mlp_only_layers") or (index + 1) % step:
        return gated_mlp(hidden, numbers.whole("intermediate_size"))
    return (
        gated_experts(hidden, numbers.whole("moe_intermediate_size"), experts)
        + gated_mlp(hidden, numbers.whole("shared_expert_intermediate_size"))
        + linear(hidden, 1)
    )


def read_recurrent_gemma(numbers: Numbers) -> LayerMix:
    """RG-LRU layers (arXiv 2402.19427) with window attention every third; for planning only."""
    heads = AttentionHeads.of(numbers)
    hidden = heads.hidden
    width = numbers.whole("lru_width", default=hidden)
    columns = numbers.whole("conv1d_width", default=4)
    inner = numbers.whole("intermediate_size") // 2
    outside = gated_mlp(hidden, inner, bias=True) + 2 * hidden
    gates = 2 * (width * (width // heads.heads) + width)
    recurrent = Layer(
        kinds=("ssm",),
        parameters=outside
        + 2 * linear(hidden, width, bias=True)
        + linear(width, hidden, bias=True)
        + width * columns
        + width
        + width
        + gates,
        recurrent=Recurrent(conv_channels=width, conv_columns=columns - 1, state_shape=(width,)),
    )
    attention = attention_layer(
        heads.cache(numbers.whole("attention_window_size", "sliding_window", default=2048)),
        outside
        + heads.parameters(bias=numbers.flag("attention_bias", default=False), output_bias=True),
    )
    pattern = numbers.config.get("block_types") or ("recurrent", "recurrent", "attention")
    return LayerMix(
        model_type=numbers.model_type,
        layers=tuple(
            attention if pattern[index % len(pattern)] == "attention" else recurrent
            for index in range(numbers.whole("num_hidden_layers"))
        ),
        shared_parameters=embeddings(numbers, tied=True) + hidden,
        servable=False,
        refusal=(
            "recurrent_gemma cannot be served: transformers keeps its recurrent state on the "
            "module, so one model holds one sequence"
        ),
    )


READERS: dict[str, Callable[[Numbers], LayerMix]] = {
    "lfm2": read_lfm2,
    "qwen3_next": read_qwen3_next,
    "qwen3_5_text": read_qwen3_next,
    "recurrent_gemma": read_recurrent_gemma,
}
