"""Zamba2: Mamba-2 in every layer; some first run a shared attention block."""

from model_registry.architecture.config_reader import ConfigReader
from model_registry.architecture.layers import Layer, LayerMix
from model_registry.architecture.mixers import Mamba2
from model_registry.architecture.modules import AttentionHeads, embeddings, gated_mlp, linear

_KINDS = frozenset({"hybrid", "linear_attention"})


def _zamba2_kinds(config: ConfigReader) -> list[str]:
    kinds = config.kinds("layers_block_type", "layer_types", allowed=_KINDS)
    if kinds is None:
        at = config.indices("hybrid_layer_ids")
        if not at:
            config.refuse("layers_block_type", "is missing")
        layers = range(config.layers())
        kinds = ["hybrid" if index in at else "linear_attention" for index in layers]
    return kinds


def read_zamba2(config: ConfigReader) -> LayerMix:
    """Mamba-2 in every layer; some first run one of `num_mem_blocks` shared attention blocks.

    A shared block sees the hidden state beside the embedding, twice as wide; each of its uses has
    a low-rank adapter, an output projection and a key-value cache of its own.
    """
    hidden, heads = config.size("hidden_size"), config.size("num_attention_heads")
    shared_heads = AttentionHeads(
        2 * hidden,
        heads,
        config.size("num_key_value_heads", default=heads),
        config.quotient(2 * hidden, heads, "num_attention_heads"),
    )
    bias = config.flag("add_bias_linear", default=False)
    mixer_heads = config.size("n_mamba_heads", default=8)
    mixer = Mamba2(
        hidden=hidden,
        heads=mixer_heads,
        head_dim=config.quotient(
            config.size("mamba_expand", default=2) * hidden, mixer_heads, "n_mamba_heads"
        ),
        groups=config.size("mamba_ngroups", default=1),
        state=config.size("mamba_d_state", default=64),
        conv=config.size("mamba_d_conv", default=4),
        conv_bias=True,
        in_bias=bias,
        out_bias=bias,
    )
    own = mixer.weights() + hidden
    inner = config.size("intermediate_size", default=4 * hidden)
    rank = config.size("adapter_rank", default=128)
    adapters = linear(hidden, rank) + linear(rank, 2 * inner)
    if config.flag("use_shared_attention_adapter", default=False):
        adapters += 3 * (linear(2 * hidden, rank) + linear(rank, 2 * hidden))
    block = shared_heads.weights(output=hidden) + gated_mlp(hidden, inner, bias=bias) + 3 * hidden
    plain = Layer(kinds=("ssm",), weights=own, recurrent=mixer.cache())
    hybrid = Layer(
        kinds=("ssm", "shared_attention"),
        weights=own + linear(hidden, hidden) + adapters,
        borrowed=block,
        attention=shared_heads.cache(),
        recurrent=mixer.cache(),
    )
    kinds = _zamba2_kinds(config)
    blocks = min(config.size("num_mem_blocks", default=1), kinds.count("hybrid"))
    return LayerMix(
        model_type=config.model_type,
        layers=tuple(hybrid if kind == "hybrid" else plain for kind in kinds),
        embeddings=embeddings(config, tied=True),
        norm=hidden,
        blocks=blocks * block,
    )
