"""From a Hugging Face `config.json` to a layer mix: which layers hold which state, how big."""

from model_registry.architecture.layers import Attention, Layer, LayerKind, LayerMix, Recurrent
from model_registry.architecture.readers import MODEL_TYPES, read_layers

__all__ = ["MODEL_TYPES", "Attention", "Layer", "LayerKind", "LayerMix", "Recurrent", "read_layers"]
