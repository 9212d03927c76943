"""The layers of a model as values: kinds, state shapes and weights."""

import math
from collections import Counter
from typing import Literal

from msgspec import Struct

from model_registry.spec import Family

LayerKind = Literal["full_attention", "window_attention", "shared_attention", "ssm", "conv", "mlp"]
"""`ssm`: any recurrent state (Mamba, Mamba-2, gated delta rule, RG-LRU), with its convolution;
`conv`: a short convolution alone; `shared_attention`: weights shared with other layers, a
key-value cache of its own; `mlp`: no state at all."""


class Weights(Struct, frozen=True, kw_only=True):
    """Elements of weight tensors, by their use for one token. A sum adds each use.

    A plain number that is added counts as `vectors`.
    """

    matrices: int = 0
    """Multiplied with every token: one multiply-add an element."""
    vectors: int = 0
    """Biases, norms, convolutions, decays: read by every pass, in no matrix product."""
    experts: int = 0
    """Matrices of all experts, of which a token uses few."""
    active_experts: int = 0
    """Matrices of the experts that one token uses."""

    @property
    def elements(self) -> int:
        """All that is held."""
        return self.matrices + self.vectors + self.experts

    @property
    def products(self) -> int:
        """Multiply-adds of one token."""
        return self.matrices + self.active_experts

    def read(self, tokens: int) -> int:
        """Elements that a pass over *tokens* tokens reads, if no two of them share an expert."""
        return self.matrices + self.vectors + min(self.experts, tokens * self.active_experts)

    def __add__(self, other: "Weights | int") -> "Weights":
        if isinstance(other, int):
            other = Weights(vectors=other)
        return Weights(
            matrices=self.matrices + other.matrices,
            vectors=self.vectors + other.vectors,
            experts=self.experts + other.experts,
            active_experts=self.active_experts + other.active_experts,
        )

    __radd__ = __add__

    def __mul__(self, times: int) -> "Weights":
        return Weights(
            matrices=self.matrices * times,
            vectors=self.vectors * times,
            experts=self.experts * times,
            active_experts=self.active_experts * times,
        )

    __rmul__ = __mul__


class Attention(Struct, frozen=True, kw_only=True):
    """Key-value cache of one attention layer: one key and value per token and key-value head."""

    heads: int
    """Query heads."""
    key_value_heads: int
    head_dim: int
    window_tokens: int | None = None
    """Sliding window, the query's own token included; None: the whole context."""

    @property
    def elements_per_token(self) -> int:
        """Elements cached for one token: keys and values."""
        return 2 * self.key_value_heads * self.head_dim

    @property
    def pair_flops(self) -> int:
        """Operations for one query and one key: query times key, weight times value, each head."""
        return 4 * self.heads * self.head_dim


class Recurrent(Struct, frozen=True, kw_only=True):
    """State of one recurrent or convolution layer, constant in the sequence length."""

    conv_channels: int
    conv_columns: int
    """Columns that are kept: transformers keeps all of the width, the newest among them."""
    conv_taps: int
    """Width of the convolution."""
    state_shape: tuple[int, ...] = ()
    """Shape of the recurrent state of one sequence; empty for a convolution alone."""
    element_flops: int = 0
    """Operations for one element of the state and one token: its update and its read-out."""

    @property
    def state_elements(self) -> int:
        """Elements of the recurrent state; 0 for a convolution alone."""
        return math.prod(self.state_shape) if self.state_shape else 0

    @property
    def token_flops(self) -> int:
        """Operations for one token: the convolution, and the recurrence over the whole state."""
        convolution = 2 * self.conv_channels * self.conv_taps
        return convolution + self.element_flops * self.state_elements


class Layer(Struct, frozen=True, kw_only=True):
    """A layer: its attention, its recurrent state and its weights."""

    kinds: tuple[LayerKind, ...]
    """Usually one; two where attention and SSM run in one layer (Falcon-H1, Zamba2)."""
    weights: Weights
    """The layer's own weights."""
    borrowed: Weights = Weights()
    """Weights of a block that several layers use; held once, in `LayerMix.blocks`."""
    attention: Attention | None = None
    recurrent: Recurrent | None = None

    @property
    def parameters(self) -> int:
        """The layer's own parameters."""
        return self.weights.elements


class Embeddings(Struct, frozen=True, kw_only=True):
    """Token embeddings and output head; a tied head is the embedding again and held once."""

    hidden: int
    vocabulary: int
    tied: bool
    head_bias: bool = False

    @property
    def head(self) -> Weights:
        """Weights of the product that makes logits, whether tied or not."""
        return Weights(
            matrices=self.hidden * self.vocabulary,
            vectors=self.vocabulary if self.head_bias else 0,
        )

    @property
    def parameters(self) -> int:
        """Parameters held."""
        embedding = self.hidden * self.vocabulary
        return self.head.elements + (0 if self.tied else embedding)


class LayerMix(Struct, frozen=True, kw_only=True):
    """All layers of a model, and the parameters outside them."""

    model_type: str
    layers: tuple[Layer, ...]
    embeddings: Embeddings
    norm: int
    """Parameters of the final norm."""
    blocks: Weights = Weights()
    """Blocks that several layers use, each once."""
    servable: bool = True
    refusal: str = ""
    """Why it cannot be served; empty if it can."""

    @property
    def shared_parameters(self) -> int:
        """Embeddings, final norm, output head where it is not tied, blocks of several layers."""
        return self.embeddings.parameters + self.norm + self.blocks.elements

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
