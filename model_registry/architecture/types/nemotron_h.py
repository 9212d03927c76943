"""Nemotron-H: one mixer per layer: Mamba-2, attention, MLP or experts."""

from model_registry.architecture.config_reader import MOST_LAYERS, ConfigReader
from model_registry.architecture.layers import Embeddings, Layer, LayerMix, Weights
from model_registry.architecture.mixers import Mamba2
from model_registry.architecture.modules import (
    AttentionHeads,
    attention_layer,
    linear,
    plain_mlp,
    routed,
)

_PATTERN = {"M": "linear_attention", "*": "full_attention", "-": "mlp", "E": "moe"}
_KINDS = frozenset(_PATTERN.values())


def _nemotron_kinds(config: ConfigReader) -> list[str]:
    kinds = config.kinds("layers_block_type", "layer_types", allowed=_KINDS)
    if kinds is None:
        pattern = config.word("hybrid_override_pattern")
        if not pattern:
            config.refuse("hybrid_override_pattern", "is missing")
        if len(pattern) > MOST_LAYERS:
            config.refuse("hybrid_override_pattern", f"has {len(pattern)} layers")
        kinds = [_PATTERN.get(letter, letter) for letter in pattern]
        config.check_kinds(kinds, _KINDS, "hybrid_override_pattern")
    return kinds


def _nemotron_experts(config: ConfigReader, hidden: int) -> Weights:
    """Router, plain experts (in a narrower space with `moe_latent_size`), a shared expert."""
    bias = config.flag("mlp_bias", default=False)
    experts = config.size("n_routed_experts", "num_local_experts")
    latent = config.optional_size("moe_latent_size")
    expert = plain_mlp(latent or hidden, config.size("moe_intermediate_size"))
    shared = plain_mlp(hidden, config.count("moe_shared_expert_intermediate_size"), bias=bias)
    around = Weights() if latent is None else plain_mlp(hidden, latent, bias=bias)
    active = config.size("num_experts_per_tok", default=2)
    return (
        linear(hidden, experts) + routed(expert, experts=experts, active=active) + shared + around
    )


def read_nemotron_h(config: ConfigReader) -> LayerMix:
    """Nemotron-H: one of Mamba-2, attention, MLP or experts per layer; an untied head."""
    heads = AttentionHeads.of(
        config, head_dim=config.size("head_dim", "attention_head_dim", default=128)
    )
    hidden = heads.hidden
    bias = config.flag("use_bias", default=False)
    mixer = Mamba2(
        hidden=hidden,
        heads=config.size("mamba_num_heads"),
        head_dim=config.size("mamba_head_dim"),
        groups=config.size("n_groups", "mamba_n_groups", default=8),
        state=config.size("ssm_state_size"),
        conv=config.size("conv_kernel", "mamba_d_conv", default=4),
        conv_bias=config.flag("use_conv_bias", default=True),
        in_bias=bias,
        out_bias=bias,
    )
    layers = []
    for kind in _nemotron_kinds(config):
        if kind == "linear_attention":
            layers.append(
                Layer(
                    kinds=("ssm",),
                    weights=mixer.weights() + hidden,
                    recurrent=mixer.cache(),
                )
            )
        elif kind == "full_attention":
            layers.append(attention_layer(heads.cache(), heads.weights() + hidden))
        else:
            inside = (
                plain_mlp(
                    hidden,
                    config.size("intermediate_size"),
                    bias=config.flag("mlp_bias", default=False),
                )
                if kind == "mlp"
                else _nemotron_experts(config, hidden)
            )
            layers.append(Layer(kinds=("mlp",), weights=inside + hidden))
    return LayerMix(
        model_type=config.model_type,
        layers=tuple(layers),
        embeddings=Embeddings(hidden=hidden, vocabulary=config.size("vocab_size"), tied=False),
        norm=hidden,
    )
