"""Choose the reader of a config by its `model_type`, never by a model's name."""

from collections.abc import Mapping
from typing import Any

from model_registry.architecture import hybrid_types, mixed_types, ssm_types, transformer_types
from model_registry.architecture.layers import LayerMix
from model_registry.architecture.numbers import Numbers
from model_registry.errors import UnsupportedArchitecture

_READERS = {
    **transformer_types.READERS,
    **ssm_types.READERS,
    **hybrid_types.READERS,
    **mixed_types.READERS,
}
#: Types whose text model is nested in `text_config`.
_NESTED = {"qwen3_5": "qwen3_5_text"}
_REFUSED = {
    "rwkv": "transformers keeps its state outside the cache classes, and padding leaks into it",
}

MODEL_TYPES = tuple(sorted({*_READERS, *_NESTED}))
"""The model types that can be read."""


def read_layers(config: Mapping[str, Any]) -> LayerMix:
    """The layer mix of a `config.json`, as published or as transformers 5.23 writes it.

    Raises UnsupportedArchitecture, naming the type, if the type is unknown or a number is missing.
    """
    model_type = config.get("model_type")
    if model_type in _NESTED:
        nested = config.get("text_config")
        inner = nested if isinstance(nested, Mapping) else config
        # A tie declared outside holds for the whole model.
        outer = {key: config[key] for key in ("tie_word_embeddings",) if key in config}
        return read_layers({**inner, **outer, "model_type": _NESTED[model_type]})
    if model_type in _REFUSED:
        raise UnsupportedArchitecture(f"{model_type} cannot be served: {_REFUSED[model_type]}")
    reader = _READERS.get(str(model_type))
    if reader is None:
        raise UnsupportedArchitecture(
            f"model type {model_type!r} is not known here; known are {', '.join(MODEL_TYPES)}"
        )
    return reader(Numbers(config, str(model_type)))
