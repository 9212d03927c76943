"""Layer mixes from Hugging Face `config.json` files: layers, their state and their sizes."""

from model_registry.architecture.layers import (
    Attention,
    Embeddings,
    Layer,
    LayerKind,
    LayerMix,
    Recurrent,
    Weights,
)
from model_registry.architecture.readers import MODEL_TYPES, read_layers

__all__ = [
    "MODEL_TYPES",
    "Attention",
    "Embeddings",
    "Layer",
    "LayerKind",
    "LayerMix",
    "Recurrent",
    "Weights",
    "read_layers",
]
