"""Chooses the reader of a config by its `model_type`, never by a model's name."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from model_registry.architecture.config_reader import ConfigReader
from model_registry.architecture.layers import LayerMix
from model_registry.architecture.recurrent_gemma import read_recurrent_gemma
from model_registry.architecture.types.bamba import read_bamba
from model_registry.architecture.types.falcon_h1 import read_falcon_h1
from model_registry.architecture.types.gemma3 import read_gemma3
from model_registry.architecture.types.granite import read_granite
from model_registry.architecture.types.jamba import read_jamba
from model_registry.architecture.types.lfm2 import read_lfm2
from model_registry.architecture.types.llama import read_llama, read_qwen2, read_qwen3
from model_registry.architecture.types.mamba import read_mamba
from model_registry.architecture.types.mamba2 import read_mamba2
from model_registry.architecture.types.nemotron_h import read_nemotron_h
from model_registry.architecture.types.phi3 import read_phi3
from model_registry.architecture.types.phimoe import read_phimoe
from model_registry.architecture.types.qwen3_next import read_qwen3_next
from model_registry.architecture.types.zamba2 import read_zamba2
from model_registry.errors import UnsupportedArchitecture

_READERS: Final[Mapping[str, Callable[[ConfigReader], LayerMix]]] = {
    "bamba": read_bamba,
    "falcon_h1": read_falcon_h1,
    "falcon_mamba": read_mamba,
    "gemma3_text": read_gemma3,
    "granitemoehybrid": read_granite,
    "jamba": read_jamba,
    "lfm2": read_lfm2,
    "llama": read_llama,
    "mamba": read_mamba,
    "mamba2": read_mamba2,
    "nemotron_h": read_nemotron_h,
    "phi3": read_phi3,
    "phimoe": read_phimoe,
    "qwen2": read_qwen2,
    "qwen3": read_qwen3,
    "qwen3_5_text": read_qwen3_next,
    "qwen3_next": read_qwen3_next,
    "recurrent_gemma": read_recurrent_gemma,
    "zamba2": read_zamba2,
}
#: Types whose text model is nested in `text_config`.
_NESTED: Final = {"qwen3_5": "qwen3_5_text"}
_REFUSED: Final = {
    "rwkv": "transformers keeps its state outside the cache classes, and padding leaks into it",
}

MODEL_TYPES: Final = tuple(sorted({*_READERS, *_NESTED}))
"""The model types that can be read."""


def read_layers(config: Mapping[str, Any]) -> LayerMix:
    """The layer mix of a `config.json`, as published or as transformers 5.23 writes it.

    Raises UnsupportedArchitecture, naming type and key, for an unknown type and for a value that
    is missing or of another kind; nothing else, whatever the config holds.
    """
    model_type = config.get("model_type")
    if not isinstance(model_type, str):
        raise UnsupportedArchitecture("the config has no `model_type` that is a string")
    if model_type in _NESTED:
        nested = config.get("text_config")
        inner = nested if isinstance(nested, Mapping) else config
        # A tie declared outside holds for the whole model.
        outer = {key: config[key] for key in ("tie_word_embeddings",) if key in config}
        return read_layers({**inner, **outer, "model_type": _NESTED[model_type]})
    if model_type in _REFUSED:
        raise UnsupportedArchitecture(f"{model_type} cannot be served: {_REFUSED[model_type]}")
    reader = _READERS.get(model_type)
    if reader is None:
        raise UnsupportedArchitecture(
            f"`model_type` {model_type[:100]!r} is not known here; known are "
            f"{', '.join(MODEL_TYPES)}"
        )
    return reader(ConfigReader(config, model_type))
