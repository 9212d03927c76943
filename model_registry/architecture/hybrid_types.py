"""Readers of the types that mix attention with recurrent or convolution layers."""

from collections.abc import Callable, Sequence

from model_registry.architecture.layers import Layer, LayerMix
from model_registry.architecture.modules import (
    AttentionHeads,
    Mamba1,
    Mamba2,
    embeddings,
    gated_experts,
    gated_mlp,
    linear,
    plain_mlp,
)
from model_registry.architecture.numbers import Numbers
from model_registry.architecture.ssm_types import time_step_rank
from model_registry.architecture.transformer_types import attention_layer
from model_registry.errors import UnsupportedArchitecture


def check_kinds(numbers: Numbers, kinds: Sequence[str], allowed: frozenset[str]) -> None:
    """Refuse a layer kind that the type does not have, by name."""
    if unknown := sorted(set(kinds) - allowed):
        raise UnsupportedArchitecture(f"{numbers.model_type}: unknown layer type {unknown[0]!r}")


def _mamba2(numbers: Numbers, *, norm: bool = True, inner: int | None = None) -> Mamba2:
    """The mixer of the types that name their numbers `mamba_…`."""
    hidden = numbers.whole("hidden_size")
    inner = inner or numbers.whole("mamba_expand", default=2) * hidden
    heads = numbers.whole("mamba_n_heads")
    bias = numbers.flag("mamba_proj_bias", default=False)
    return Mamba2(
        hidden=hidden,
        heads=heads,
        head_dim=inner // heads,
        groups=numbers.whole("mamba_n_groups", default=1),
        state=numbers.whole("mamba_d_state"),
        conv=numbers.whole("mamba_d_conv", default=4),
        conv_bias=numbers.flag("mamba_conv_bias", default=True),
        in_bias=bias,
        out_bias=bias,
        norm=norm,
    )


def read_jamba(numbers: Numbers) -> LayerMix:
    """Mamba-1 with attention every `attn_layer_period`, experts every `expert_layer_period`."""
    heads = AttentionHeads.of(numbers)
    hidden = heads.hidden
    mixer = Mamba1(
        hidden=hidden,
        inner=numbers.whole("mamba_expand", default=2) * hidden,
        state=numbers.whole("mamba_d_state", default=16),
        rank=time_step_rank(numbers, "mamba_dt_rank", hidden),
        conv=numbers.whole("mamba_d_conv", default=4),
        conv_bias=numbers.flag("mamba_conv_bias", default=True),
        projection_bias=numbers.flag("mamba_proj_bias", default=False),
    )
    norms_in_mixer = mixer.rank + 2 * mixer.state
    experts = numbers.whole("num_experts", "num_local_experts", default=16)
    inner = numbers.whole("intermediate_size")
    layers = []
    for index in range(numbers.whole("num_hidden_layers")):
        routed = experts > 1 and _falls_on(numbers, "expert_layer", index, period=2, offset=1)
        outside = 2 * hidden
        outside += gated_experts(hidden, inner, experts) if routed else gated_mlp(hidden, inner)
        if _falls_on(numbers, "attn_layer", index, period=8, offset=4):
            layers.append(attention_layer(heads.cache(), outside + heads.parameters()))
        else:
            parameters = outside + mixer.parameters() + norms_in_mixer
            layers.append(Layer(kinds=("ssm",), parameters=parameters, recurrent=mixer.cache()))
    return LayerMix(
        model_type=numbers.model_type,
        layers=tuple(layers),
        shared_parameters=embeddings(numbers, tied=False) + hidden,
    )


def _falls_on(numbers: Numbers, name: str, index: int, *, period: int, offset: int) -> bool:
    period = numbers.whole(f"{name}_period", default=period)
    return index % period == numbers.whole(f"{name}_offset", default=offset)


def read_falcon_h1(numbers: Numbers) -> LayerMix:
    """Attention and Mamba-2 side by side in every layer."""
    heads = AttentionHeads.of(numbers)
    hidden = heads.hidden
    norm = numbers.flag("mamba_rms_norm", default=False)
    mixer = _mamba2(numbers, norm=norm, inner=numbers.optional("mamba_d_ssm"))
    out_bias = numbers.flag("projectors_bias", default=False)
    parameters = (
        heads.parameters(bias=numbers.flag("attention_bias", default=False))
        + mixer.parameters()
        + (hidden if out_bias else 0)
        - (hidden if mixer.out_bias else 0)
        + gated_mlp(
            hidden,
            numbers.whole("intermediate_size"),
            bias=numbers.flag("mlp_bias", default=False),
        )
        + 2 * hidden
    )
    layer = Layer(
        kinds=("ssm", "full_attention"),
        parameters=parameters,
        attention=heads.cache(),
        recurrent=mixer.cache(),
    )
    return LayerMix(
        model_type=numbers.model_type,
        layers=(layer,) * numbers.whole("num_hidden_layers"),
        shared_parameters=embeddings(numbers, tied=False) + hidden,
    )


def _alternating(
    numbers: Numbers,
    kinds: Sequence[str],
    heads: AttentionHeads,
    mixer: Mamba2,
    outside: int,
) -> tuple[Layer, ...]:
    """Layers of either attention or Mamba-2, each with `outside` parameters of norms and MLP."""
    check_kinds(numbers, kinds, frozenset({"full_attention", "linear_attention"}))
    bias = numbers.flag("attention_bias", default=False)
    attention = attention_layer(heads.cache(), outside + heads.parameters(bias=bias))
    recurrent = Layer(
        kinds=("ssm",), parameters=outside + mixer.parameters(), recurrent=mixer.cache()
    )
    return tuple(attention if kind == "full_attention" else recurrent for kind in kinds)


def read_bamba(numbers: Numbers) -> LayerMix:
    """Mamba-2 layers with attention at `attn_layer_indices`."""
    heads = AttentionHeads.of(numbers)
    at = numbers.indices("attn_layer_indices")
    kinds = numbers.kinds("layer_types", "layers_block_type") or [
        "full_attention" if index in at else "linear_attention"
        for index in range(numbers.whole("num_hidden_layers"))
    ]
    outside = 2 * heads.hidden + gated_mlp(
        heads.hidden,
        numbers.whole("intermediate_size"),
        bias=numbers.flag("mlp_bias", default=False),
    )
    return LayerMix(
        model_type=numbers.model_type,
        layers=_alternating(numbers, kinds, heads, _mamba2(numbers), outside),
        shared_parameters=embeddings(numbers, tied=False) + heads.hidden,
    )


def read_granite(numbers: Numbers) -> LayerMix:
    """Granite 4: Mamba-2 or attention; a shared MLP, beside it experts if there are any."""
    heads = AttentionHeads.of(numbers)
    kinds = numbers.kinds("layer_types", "layers_block_type")
    if kinds is None:
        kinds = ["linear_attention"] * numbers.whole("num_hidden_layers")
    outside = 2 * heads.hidden + gated_mlp(heads.hidden, numbers.whole("shared_intermediate_size"))
    if experts := numbers.whole("num_local_experts", default=8):
        outside += gated_experts(heads.hidden, numbers.whole("intermediate_size"), experts)
    return LayerMix(
        model_type=numbers.model_type,
        layers=_alternating(numbers, kinds, heads, _mamba2(numbers), outside),
        shared_parameters=embeddings(numbers, tied=False) + heads.hidden,
    )


def _zamba2_kinds(numbers: Numbers) -> list[str]:
    kinds = numbers.kinds("layers_block_type", "layer_types")
    if kinds is None:
        at = numbers.indices("hybrid_layer_ids")
        if not at:
            raise UnsupportedArchitecture("zamba2: the config lacks `layers_block_type`")
        layers = range(numbers.whole("num_hidden_layers"))
        kinds = ["hybrid" if index in at else "linear_attention" for index in layers]
    check_kinds(numbers, kinds, frozenset({"hybrid", "linear_attention"}))
    return kinds


def read_zamba2(numbers: Numbers) -> LayerMix:
    """Mamba-2 in every layer; some first run one of `num_mem_blocks` shared attention blocks.

    A shared block sees the hidden state beside the embedding, twice as wide; each of its uses has
    a low-rank adapter, an output projection and a key-value cache of its own.
    """
    hidden, heads = numbers.whole("hidden_size"), numbers.whole("num_attention_heads")
    shared_heads = AttentionHeads(
        2 * hidden, heads, numbers.whole("num_key_value_heads", default=heads), 2 * hidden // heads
    )
    bias = numbers.flag("add_bias_linear", default=False)
    mixer_heads = numbers.whole("n_mamba_heads", default=8)
    mixer = Mamba2(
        hidden=hidden,
        heads=mixer_heads,
        head_dim=numbers.whole("mamba_expand", default=2) * hidden // mixer_heads,
        groups=numbers.whole("mamba_ngroups", default=1),
        state=numbers.whole("mamba_d_state", default=64),
        conv=numbers.whole("mamba_d_conv", default=4),
        conv_bias=True,
        in_bias=bias,
        out_bias=bias,
    )
    own = mixer.parameters() + hidden
    inner = numbers.whole("intermediate_size", default=4 * hidden)
    rank = numbers.whole("adapter_rank", default=128)
    adapters = linear(hidden, rank) + linear(rank, 2 * inner)
    if numbers.flag("use_shared_attention_adapter", default=False):
        adapters += 3 * (linear(2 * hidden, rank) + linear(rank, 2 * hidden))
    plain = Layer(kinds=("ssm",), parameters=own, recurrent=mixer.cache())
    hybrid = Layer(
        kinds=("ssm", "shared_attention"),
        parameters=own + linear(hidden, hidden) + adapters,
        attention=shared_heads.cache(),
        recurrent=mixer.cache(),
    )
    queries = heads * shared_heads.head_dim
    block = (
        shared_heads.parameters()
        - linear(queries, 2 * hidden)
        + linear(queries, hidden)
        + gated_mlp(hidden, inner, bias=bias)
        + 3 * hidden
    )
    kinds = _zamba2_kinds(numbers)
    blocks = min(numbers.whole("num_mem_blocks", default=1), kinds.count("hybrid"))
    return LayerMix(
        model_type=numbers.model_type,
        layers=tuple(hybrid if kind == "hybrid" else plain for kind in kinds),
        shared_parameters=embeddings(numbers, tied=True) + hidden + blocks * block,
    )


_NEMOTRON_PATTERN = {"M": "linear_attention", "*": "full_attention", "-": "mlp", "E": "moe"}


def _nemotron_kinds(numbers: Numbers) -> list[str]:
    kinds = numbers.kinds("layers_block_type", "layer_types")
    if kinds is None:
        pattern = numbers.config.get("hybrid_override_pattern")
        if not isinstance(pattern, str):
            raise UnsupportedArchitecture("nemotron_h: the config lacks `hybrid_override_pattern`")
        kinds = [_NEMOTRON_PATTERN.get(letter, letter) for letter in pattern]
    check_kinds(numbers, kinds, frozenset(_NEMOTRON_PATTERN.values()))
    return kinds


def _nemotron_experts(numbers: Numbers, hidden: int) -> int:
    """Router, plain experts (in a narrower space with `moe_latent_size`), a shared expert."""
    bias = numbers.flag("mlp_bias", default=False)
    experts = numbers.whole("n_routed_experts", "num_local_experts")
    latent = numbers.optional("moe_latent_size")
    expert = plain_mlp(latent or hidden, numbers.whole("moe_intermediate_size"))
    shared = plain_mlp(hidden, numbers.whole("moe_shared_expert_intermediate_size"), bias=bias)
    around = 0 if latent is None else plain_mlp(hidden, latent, bias=bias)
    return linear(hidden, experts) + experts * expert + shared + around


def read_nemotron_h(numbers: Numbers) -> LayerMix:
    """One mixer a layer: Mamba-2, attention, MLP or experts. The head is never tied."""
    heads = AttentionHeads.of(
        numbers, head_dim=numbers.whole("head_dim", "attention_head_dim", default=128)
    )
    hidden = heads.hidden
    bias = numbers.flag("use_bias", default=False)
    mixer = Mamba2(
        hidden=hidden,
        heads=numbers.whole("mamba_num_heads"),
        head_dim=numbers.whole("mamba_head_dim"),
        groups=numbers.whole("n_groups", "mamba_n_groups", default=8),
        state=numbers.whole("ssm_state_size"),
        conv=numbers.whole("conv_kernel", "mamba_d_conv", default=4),
        conv_bias=numbers.flag("use_conv_bias", default=True),
        in_bias=bias,
        out_bias=bias,
    )
    layers = []
    for kind in _nemotron_kinds(numbers):
        if kind == "linear_attention":
            layers.append(
                Layer(
                    kinds=("ssm",),
                    parameters=mixer.parameters() + hidden,
                    recurrent=mixer.cache(),
                )
            )
        elif kind == "full_attention":
            layers.append(attention_layer(heads.cache(), heads.parameters() + hidden))
        else:
            inside = (
                plain_mlp(
                    hidden,
                    numbers.whole("intermediate_size"),
                    bias=numbers.flag("mlp_bias", default=False),
                )
                if kind == "mlp"
                else _nemotron_experts(numbers, hidden)
            )
            layers.append(Layer(kinds=("mlp",), parameters=inside + hidden))
    vocabulary = numbers.whole("vocab_size")
    return LayerMix(
        model_type=numbers.model_type,
        layers=tuple(layers),
        shared_parameters=2 * vocabulary * hidden + hidden,
    )


READERS: dict[str, Callable[[Numbers], LayerMix]] = {
    "jamba": read_jamba,
    "falcon_h1": read_falcon_h1,
    "bamba": read_bamba,
    "granitemoehybrid": read_granite,
    "zamba2": read_zamba2,
    "nemotron_h": read_nemotron_h,
}
