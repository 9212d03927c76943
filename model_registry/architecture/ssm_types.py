"""Readers of the types without attention."""

import math
from collections.abc import Callable

from model_registry.architecture.layers import Layer, LayerMix
from model_registry.architecture.modules import Mamba1, Mamba2, embeddings
from model_registry.architecture.numbers import Numbers
from model_registry.errors import UnsupportedArchitecture


def time_step_rank(numbers: Numbers, name: str, hidden: int) -> int:
    """Rank of the time step projection; "auto" is a sixteenth of the hidden size, rounded up."""
    auto = numbers.config.get(name, "auto") in ("auto", None)
    return math.ceil(hidden / 16) if auto else numbers.whole(name)


def _original_names(numbers: Numbers) -> Numbers:
    """A config of the original Mamba code (`d_model`, `n_layer`, `ssm_cfg`) in transformers' names.

    The vocabulary is padded as `mamba_ssm/models/mixer_seq_simple.py` does.
    """
    config = numbers.config
    if "d_model" not in config or "hidden_size" in config:
        return numbers
    multiple = numbers.whole("pad_vocab_size_multiple", default=8)
    inner = config.get("ssm_cfg") or {}
    renamed = {
        "hidden_size": config["d_model"],
        "num_hidden_layers": config.get("n_layer"),
        "vocab_size": math.ceil(numbers.whole("vocab_size") / multiple) * multiple,
        "tie_word_embeddings": config.get("tie_embeddings", True),
        "state_size": inner.get("d_state"),
        "expand": inner.get("expand"),
        "conv_kernel": inner.get("d_conv"),
        "n_groups": inner.get("ngroups", 1),
        "head_dim": inner.get("headdim", 64),
    }
    if numbers.model_type == "mamba2":
        renamed["state_size"] = inner.get("d_state", 128)
        renamed["num_heads"] = config["d_model"] * inner.get("expand", 2) // renamed["head_dim"]
    return Numbers({**config, **renamed}, numbers.model_type)


def read_mamba(numbers: Numbers) -> LayerMix:
    """Mamba and Falcon Mamba: one norm and one mixer a layer.

    `intermediate_size` holds where it is written: Falcon Mamba 7B is published with `expand` 16.
    """
    numbers = _original_names(numbers)
    hidden = numbers.whole("hidden_size")
    expanded = numbers.whole("expand", default=2) * hidden
    mixer = Mamba1(
        hidden=hidden,
        inner=numbers.whole("intermediate_size", default=expanded),
        state=numbers.whole("state_size", default=16),
        rank=time_step_rank(numbers, "time_step_rank", hidden),
        conv=numbers.whole("conv_kernel", default=4),
        conv_bias=numbers.flag("use_conv_bias", default=True),
        projection_bias=numbers.flag("use_bias", default=False),
    )
    layer = Layer(kinds=("ssm",), parameters=mixer.parameters() + hidden, recurrent=mixer.cache())
    return LayerMix(
        model_type=numbers.model_type,
        layers=(layer,) * numbers.whole("num_hidden_layers"),
        shared_parameters=embeddings(numbers, tied=True) + hidden,
    )


def read_mamba2(numbers: Numbers) -> LayerMix:
    """Mamba-2: one norm and one mixer a layer."""
    numbers = _original_names(numbers)
    hidden = numbers.whole("hidden_size")
    mixer = Mamba2(
        hidden=hidden,
        heads=numbers.whole("num_heads"),
        head_dim=numbers.whole("head_dim"),
        groups=numbers.whole("n_groups"),
        state=numbers.whole("state_size"),
        conv=numbers.whole("conv_kernel", default=4),
        conv_bias=numbers.flag("use_conv_bias", default=True),
        in_bias=numbers.flag("use_bias", default=False),
        out_bias=numbers.flag("use_bias", default=False),
    )
    if mixer.inner != numbers.whole("expand", default=2) * hidden:
        raise UnsupportedArchitecture(
            f"mamba2: {mixer.heads} heads of {mixer.head_dim} do not make `expand` times {hidden}"
        )
    layer = Layer(kinds=("ssm",), parameters=mixer.parameters() + hidden, recurrent=mixer.cache())
    return LayerMix(
        model_type=numbers.model_type,
        layers=(layer,) * numbers.whole("num_hidden_layers"),
        shared_parameters=embeddings(numbers, tied=False) + hidden,
    )


READERS: dict[str, Callable[[Numbers], LayerMix]] = {
    "mamba": read_mamba,
    "falcon_mamba": read_mamba,
    "mamba2": read_mamba2,
}
