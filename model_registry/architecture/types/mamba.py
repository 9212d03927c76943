"""Mamba and Falcon Mamba: a Mamba-1 mixer in every layer."""

import math

from model_registry.architecture.config_reader import ConfigReader
from model_registry.architecture.layers import Layer, LayerMix
from model_registry.architecture.mixers import Mamba1, time_step_rank
from model_registry.architecture.modules import embeddings


def original_names(config: ConfigReader) -> ConfigReader:
    """A config of the original Mamba code (`d_model`, `n_layer`, `ssm_cfg`) in transformers' names.

    The vocabulary is padded as `mamba_ssm/models/mixer_seq_simple.py` does.
    """
    if not config.has("d_model") or config.has("hidden_size"):
        return config
    multiple = config.size("pad_vocab_size_multiple", default=8)
    inner = config.nested("ssm_cfg")
    hidden = config.size("d_model")
    renamed: dict[str, object] = {
        "hidden_size": hidden,
        "num_hidden_layers": config.size("n_layer"),
        "vocab_size": math.ceil(config.size("vocab_size") / multiple) * multiple,
        "tie_word_embeddings": config.flag("tie_embeddings", default=True),
        "state_size": inner.optional_size("d_state"),
        "expand": inner.optional_size("expand"),
        "conv_kernel": inner.optional_size("d_conv"),
        "n_groups": inner.size("ngroups", default=1),
        "head_dim": inner.size("headdim", default=64),
    }
    if config.model_type == "mamba2":
        width = hidden * inner.size("expand", default=2)
        renamed["state_size"] = inner.size("d_state", default=128)
        renamed["num_heads"] = config.quotient(width, inner.size("headdim", default=64), "headdim")
    return config.replaced(renamed)


def read_mamba(config: ConfigReader) -> LayerMix:
    """Mamba and Falcon Mamba: one norm and one mixer per layer.

    `intermediate_size` holds where it is written: Falcon Mamba 7B is published with `expand` 16.
    """
    config = original_names(config)
    hidden = config.size("hidden_size")
    expanded = config.size("expand", default=2) * hidden
    mixer = Mamba1(
        hidden=hidden,
        inner=config.size("intermediate_size", default=expanded),
        state=config.size("state_size", default=16),
        rank=time_step_rank(config, "time_step_rank", hidden),
        conv=config.size("conv_kernel", default=4),
        conv_bias=config.flag("use_conv_bias", default=True),
        projection_bias=config.flag("use_bias", default=False),
    )
    layer = Layer(kinds=("ssm",), weights=mixer.weights() + hidden, recurrent=mixer.cache())
    return LayerMix(
        model_type=config.model_type,
        layers=(layer,) * config.layers(),
        embeddings=embeddings(config, tied=True),
        norm=hidden,
    )
