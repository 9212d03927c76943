"""Building blocks that many types share: parameter counts and state shapes.

Read from the modules that transformers 5.23 builds (`transformers/models/TYPE/modeling_TYPE.py`);
the tests compare each type's sum with the model that transformers builds from the same config.
"""

from msgspec import Struct

from model_registry.architecture.layers import Attention, Recurrent
from model_registry.architecture.numbers import Numbers


def linear(inputs: int, outputs: int, *, bias: bool = False) -> int:
    """Parameters of a linear layer."""
    return inputs * outputs + (outputs if bias else 0)


def gated_mlp(hidden: int, inner: int, *, bias: bool = False) -> int:
    """Gate, up and down projection."""
    return 2 * linear(hidden, inner, bias=bias) + linear(inner, hidden, bias=bias)


def plain_mlp(hidden: int, inner: int, *, bias: bool = False) -> int:
    """Up and down projection."""
    return linear(hidden, inner, bias=bias) + linear(inner, hidden, bias=bias)


def gated_experts(hidden: int, inner: int, experts: int) -> int:
    """A router and so many gated MLPs; a token uses few of them, all are held."""
    return linear(hidden, experts) + experts * gated_mlp(hidden, inner)


def embeddings(numbers: Numbers, *, tied: bool, head_bias: bool = False) -> int:
    """Token embeddings and output head; a tied head is the embedding again and counts once.

    `tied` is the default of the type's config class, for configs without `tie_word_embeddings`.
    """
    hidden, vocabulary = numbers.whole("hidden_size"), numbers.whole("vocab_size")
    is_tied = numbers.flag("tie_word_embeddings", default=tied)
    head = 0 if is_tied else hidden * vocabulary
    return hidden * vocabulary + head + (vocabulary if head_bias else 0)


class AttentionHeads(Struct, frozen=True):
    """Head counts of a config and what follows from them."""

    hidden: int
    heads: int
    key_value_heads: int
    head_dim: int

    @classmethod
    def of(cls, numbers: Numbers, *, head_dim: int | None = None) -> "AttentionHeads":
        """`num_key_value_heads` defaults to all heads, `head_dim` to hidden size over heads."""
        hidden, heads = numbers.whole("hidden_size"), numbers.whole("num_attention_heads")
        return cls(
            hidden,
            heads,
            numbers.whole("num_key_value_heads", default=heads),
            head_dim or numbers.whole("head_dim", default=hidden // heads),
        )

    def parameters(
        self, *, bias: bool = False, output_bias: bool | None = None, query_factor: int = 1
    ) -> int:
        """Q, K, V and output projection; `query_factor` 2 where Q carries a gate."""
        queries, keys = self.heads * self.head_dim, self.key_value_heads * self.head_dim
        return (
            linear(self.hidden, queries * query_factor, bias=bias)
            + 2 * linear(self.hidden, keys, bias=bias)
            + linear(queries, self.hidden, bias=bias if output_bias is None else output_bias)
        )

    def cache(self, window_tokens: int | None = None) -> Attention:
        """What a layer of these heads keeps."""
        return Attention(
            key_value_heads=self.key_value_heads,
            head_dim=self.head_dim,
            window_tokens=window_tokens,
        )


class Mamba1(Struct, frozen=True, kw_only=True):
    """A Mamba mixer (arXiv 2312.00752): one state of `state` numbers for each inner channel."""

    hidden: int
    inner: int
    state: int
    rank: int
    conv: int
    conv_bias: bool
    projection_bias: bool

    def parameters(self) -> int:
        """A and D, convolution, the four projections."""
        return (
            self.inner * self.state
            + self.inner
            + self.inner * self.conv
            + (self.inner if self.conv_bias else 0)
            + linear(self.hidden, 2 * self.inner, bias=self.projection_bias)
            + linear(self.inner, self.rank + 2 * self.state)
            + linear(self.rank, self.inner, bias=True)
            + linear(self.inner, self.hidden, bias=self.projection_bias)
        )

    def cache(self) -> Recurrent:
        """State [inner, state], convolution over the inner channels."""
        return Recurrent(
            conv_channels=self.inner,
            conv_columns=self.conv,
            state_shape=(self.inner, self.state),
        )


class Mamba2(Struct, frozen=True, kw_only=True):
    """A Mamba-2 mixer (arXiv 2405.21060): one state [head_dim, state] for each head."""

    hidden: int
    heads: int
    head_dim: int
    groups: int
    state: int
    conv: int
    conv_bias: bool
    in_bias: bool = False
    out_bias: bool = False
    norm: bool = True

    @property
    def inner(self) -> int:
        """Channels of x and of the gate z."""
        return self.heads * self.head_dim

    @property
    def conv_channels(self) -> int:
        """The convolution runs over x and over B and C of each group."""
        return self.inner + 2 * self.groups * self.state

    def parameters(self) -> int:
        """A, D and dt bias a head; convolution; one input projection for z, x, B, C and dt."""
        return (
            3 * self.heads
            + self.conv_channels * self.conv
            + (self.conv_channels if self.conv_bias else 0)
            + linear(self.hidden, self.inner + self.conv_channels + self.heads, bias=self.in_bias)
            + (self.inner if self.norm else 0)
            + linear(self.inner, self.hidden, bias=self.out_bias)
        )

    def cache(self) -> Recurrent:
        """State [heads, head_dim, state]."""
        return Recurrent(
            conv_channels=self.conv_channels,
            conv_columns=self.conv,
            state_shape=(self.heads, self.head_dim, self.state),
        )


class GatedDeltaNet(Struct, frozen=True, kw_only=True):
    """A gated delta rule mixer (arXiv 2412.06464): one state [key_dim, value_dim] a value head."""

    hidden: int
    key_heads: int
    value_heads: int
    key_dim: int
    value_dim: int
    conv: int

    @property
    def conv_channels(self) -> int:
        """The convolution runs over Q, K and V."""
        return 2 * self.key_heads * self.key_dim + self.value_heads * self.value_dim

    def parameters(self) -> int:
        """A and dt bias a head; convolution; one row each for Q, K, V, gate, beta, decay; norm."""
        values = self.value_heads * self.value_dim
        return (
            2 * self.value_heads
            + self.conv_channels * self.conv
            + linear(self.hidden, self.conv_channels + values + 2 * self.value_heads)
            + self.value_dim
            + linear(values, self.hidden)
        )

    def cache(self) -> Recurrent:
        """State [value_heads, key_dim, value_dim]."""
        return Recurrent(
            conv_channels=self.conv_channels,
            conv_columns=self.conv,
            state_shape=(self.value_heads, self.key_dim, self.value_dim),
        )
