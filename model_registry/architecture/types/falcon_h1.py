"""Falcon-H1: attention and Mamba-2 side by side in every layer."""

from model_registry.architecture.config_reader import ConfigReader
from model_registry.architecture.layers import Layer, LayerMix
from model_registry.architecture.mixers import Mamba2
from model_registry.architecture.modules import AttentionHeads, embeddings, gated_mlp


def read_falcon_h1(config: ConfigReader) -> LayerMix:
    """Attention and Mamba-2 side by side in every layer."""
    heads = AttentionHeads.of(config)
    hidden = heads.hidden
    norm = config.flag("mamba_rms_norm", default=False)
    mixer = Mamba2.of(config, norm=norm, inner=config.optional_size("mamba_d_ssm"))
    out_bias = config.flag("projectors_bias", default=False)
    weights = (
        heads.weights(bias=config.flag("attention_bias", default=False))
        + mixer.weights()
        + ((hidden if out_bias else 0) - (hidden if mixer.out_bias else 0))
        + gated_mlp(
            hidden,
            config.size("intermediate_size"),
            bias=config.flag("mlp_bias", default=False),
        )
        + 2 * hidden
    )
    layer = Layer(
        kinds=("ssm", "full_attention"),
        weights=weights,
        attention=heads.cache(),
        recurrent=mixer.cache(),
    )
    return LayerMix(
        model_type=config.model_type,
        layers=(layer,) * config.layers(),
        embeddings=embeddings(config, tied=False),
        norm=hidden,
    )
