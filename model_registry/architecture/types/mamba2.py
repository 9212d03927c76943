"""Mamba-2: a Mamba-2 mixer in every layer."""

from model_registry.architecture.config_reader import ConfigReader
from model_registry.architecture.layers import Layer, LayerMix
from model_registry.architecture.mixers import Mamba2
from model_registry.architecture.modules import embeddings
from model_registry.architecture.types.mamba import original_names


def read_mamba2(config: ConfigReader) -> LayerMix:
    """Mamba-2: one norm and one mixer per layer."""
    config = original_names(config)
    hidden = config.size("hidden_size")
    mixer = Mamba2(
        hidden=hidden,
        heads=config.size("num_heads"),
        head_dim=config.size("head_dim"),
        groups=config.size("n_groups"),
        state=config.size("state_size"),
        conv=config.size("conv_kernel", default=4),
        conv_bias=config.flag("use_conv_bias", default=True),
        in_bias=config.flag("use_bias", default=False),
        out_bias=config.flag("use_bias", default=False),
    )
    if mixer.inner != config.size("expand", default=2) * hidden:
        config.refuse("expand", f"times {hidden} is not {mixer.heads} heads of {mixer.head_dim}")
    layer = Layer(kinds=("ssm",), weights=mixer.weights() + hidden, recurrent=mixer.cache())
    return LayerMix(
        model_type=config.model_type,
        layers=(layer,) * config.layers(),
        embeddings=embeddings(config, tied=False),
        norm=hidden,
    )
