"""Recurrent mixers that several types share: weights, state shapes and recurrences.

Read from the modules that transformers 5.23 builds, as in `modules.py`.
"""

import math
from typing import Final

from msgspec import Struct

from model_registry.architecture.config_reader import ConfigReader
from model_registry.architecture.layers import Recurrent, Weights
from model_registry.architecture.modules import linear

# Multiplications and additions for one element of the state h and one token. What is computed once
# a channel or a head (x times its time step, the decay of a head) is not counted.

MAMBA1_FLOPS: Final = 6
"""Δ·A, decay·h, (Δx)·B, their sum, and C·h with its sum (arXiv 2312.00752, equations 2 and 4)."""
MAMBA2_FLOPS: Final = 5
"""As Mamba-1, but one decay for a whole head (arXiv 2405.21060, equation 1 with scalar A)."""
DELTA_RULE_FLOPS: Final = 7
"""decay·S, kᵀS with its sum, k⊗β(v − kᵀS), their sum, qᵀS with its sum (arXiv 2412.06464,
equation 10)."""


def time_step_rank(config: ConfigReader, name: str, hidden: int) -> int:
    """Rank of the time step projection; "auto" is a sixteenth of the hidden size, rounded up."""
    if not config.has(name) or config.is_auto(name):
        return math.ceil(hidden / 16)
    return config.size(name)


class Mamba1(Struct, frozen=True, kw_only=True):
    """A Mamba mixer (arXiv 2312.00752): one state of `state` numbers for each inner channel."""

    hidden: int
    inner: int
    state: int
    rank: int
    conv: int
    conv_bias: bool
    projection_bias: bool

    def weights(self) -> Weights:
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
            conv_taps=self.conv,
            state_shape=(self.inner, self.state),
            element_flops=MAMBA1_FLOPS,
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

    @classmethod
    def of(cls, config: ConfigReader, *, norm: bool = True, inner: int | None = None) -> "Mamba2":
        """The mixer of the types that name its numbers `mamba_…`."""
        hidden = config.size("hidden_size")
        inner = inner or config.size("mamba_expand", default=2) * hidden
        heads = config.size("mamba_n_heads")
        bias = config.flag("mamba_proj_bias", default=False)
        return cls(
            hidden=hidden,
            heads=heads,
            head_dim=config.quotient(inner, heads, "mamba_n_heads"),
            groups=config.size("mamba_n_groups", default=1),
            state=config.size("mamba_d_state"),
            conv=config.size("mamba_d_conv", default=4),
            conv_bias=config.flag("mamba_conv_bias", default=True),
            in_bias=bias,
            out_bias=bias,
            norm=norm,
        )

    @property
    def inner(self) -> int:
        """Channels of x and of the gate z."""
        return self.heads * self.head_dim

    @property
    def conv_channels(self) -> int:
        """The convolution runs over x and over B and C of each group."""
        return self.inner + 2 * self.groups * self.state

    def weights(self) -> Weights:
        """A, D and dt bias per head; convolution; one input projection for z, x, B, C, dt."""
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
            conv_taps=self.conv,
            state_shape=(self.heads, self.head_dim, self.state),
            element_flops=MAMBA2_FLOPS,
        )


class GatedDeltaNet(Struct, frozen=True, kw_only=True):
    """A gated delta rule mixer (arXiv 2412.06464): a state [key_dim, value_dim] per value head."""

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

    def weights(self) -> Weights:
        """A and dt bias per head; convolution; rows for Q, K, V, gate, beta and decay; norm."""
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
            conv_taps=self.conv,
            state_shape=(self.value_heads, self.key_dim, self.value_dim),
            element_flops=DELTA_RULE_FLOPS,
        )
