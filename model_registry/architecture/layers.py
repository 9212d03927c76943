"""The layers of a model as values: kinds, state shapes and parameter counts."""

from collections import Counter
from typing import Literal

from msgspec import Struct

from model_registry.spec import Family

LayerKind = Literal["full_attention", "window_attention", "shared_attention", "ssm", "conv", "mlp"]
"""`ssm`: any recurrent state (Mamba, Mamba-2, gated delta rule, RG-LRU), with its convolution;
`conv`: a short convolution alone; `shared_attention`: weights shared with other layers, a
key-value cache of its own; `mlp`: no state at all."""


class Attention(Struct, frozen=True, kw_only=True):
    """Key-value cache of one attention layer: one key and value per token and key-value head."""

    key_value_heads: int
    head_dim: int
    window_tokens: int | None = None
    """Sliding window, the query's own token included; None: the whole context."""

    @property
    def elements_per_token(self) -> int:
        """Elements cached for one token: keys and values."""
        return 2 * self.key_value_heads * self.head_dim


class Recurrent(Struct, frozen=True, kw_only=True):
    """State of one recurrent or convolution layer, constant in the sequence length."""

    conv_channels: int
    conv_columns: int
    """Width of the convolution: transformers keeps all columns, the newest among them."""
    state_shape: tuple[int, ...] = ()
    """Shape of the recurrent state of one sequence; empty for a convolution alone."""


class Layer(Struct, frozen=True, kw_only=True):
    """A layer: its attention, its recurrent state and its parameters."""

    kinds: tuple[LayerKind, ...]
    """Usually one; two where attention and SSM run in one layer (Falcon-H1, Zamba2)."""
    parameters: int
    """The layer's own parameters; what layers share is in `LayerMix.shared_parameters`."""
    attention: Attention | None = None
    recurrent: Recurrent | None = None


class LayerMix(Struct, frozen=True, kw_only=True):
    """All layers of a model, and the parameters outside them."""

    model_type: str
    layers: tuple[Layer, ...]
    shared_parameters: int
    """Embeddings, final norm, output head where it is not tied, blocks that several layers use."""
    servable: bool = True
    refusal: str = ""
    """Why it cannot be served; empty if it can."""

    @property
    def parameters(self) -> int:
        """All parameters, each tied weight once."""
        return self.shared_parameters + sum(layer.parameters for layer in self.layers)

    def counts(self) -> dict[LayerKind, int]:
        """Number of layers of each kind that occurs."""
        return dict(Counter(kind for layer in self.layers for kind in layer.kinds))

    @property
    def family(self) -> Family:
        """Attention alone is a transformer, fixed-size state alone an SSM, both a hybrid."""
        attention = any(layer.attention for layer in self.layers)
        recurrent = any(layer.recurrent for layer in self.layers)
        if attention and recurrent:
            return "hybrid"
        return "ssm" if recurrent else "transformer"
