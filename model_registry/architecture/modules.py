"""Attention, MLPs, experts and embeddings that many types share: weights and caches.

Read from the modules that transformers 5.23 builds (`transformers/models/TYPE/modeling_TYPE.py`);
the tests compare each type's sum with the model that transformers builds from the same config.
"""

from msgspec import Struct

from model_registry.architecture.config_reader import ConfigReader
from model_registry.architecture.layers import Attention, Embeddings, Layer, LayerKind, Weights


def linear(inputs: int, outputs: int, *, bias: bool = False) -> Weights:
    """A linear layer."""
    return Weights(matrices=inputs * outputs, vectors=outputs if bias else 0)


def gated_mlp(hidden: int, inner: int, *, bias: bool = False) -> Weights:
    """Gate, up and down projection."""
    return 2 * linear(hidden, inner, bias=bias) + linear(inner, hidden, bias=bias)


def plain_mlp(hidden: int, inner: int, *, bias: bool = False) -> Weights:
    """Up and down projection."""
    return linear(hidden, inner, bias=bias) + linear(inner, hidden, bias=bias)


def routed(expert: Weights, *, experts: int, active: int) -> Weights:
    """Experts of which a token uses *active*; all are held. The router is not among them."""
    return Weights(
        experts=experts * expert.elements, active_experts=min(experts, active) * expert.elements
    )


def gated_experts(hidden: int, inner: int, *, experts: int, active: int) -> Weights:
    """A router and gated MLPs."""
    return linear(hidden, experts) + routed(
        gated_mlp(hidden, inner), experts=experts, active=active
    )


def embeddings(config: ConfigReader, *, tied: bool, head_bias: bool = False) -> Embeddings:
    """Token embeddings and output head.

    `tied` is the default of the type's config class, for configs without `tie_word_embeddings`.
    """
    return Embeddings(
        hidden=config.size("hidden_size"),
        vocabulary=config.size("vocab_size"),
        tied=config.flag("tie_word_embeddings", default=tied),
        head_bias=head_bias,
    )


class AttentionHeads(Struct, frozen=True):
    """Head counts of a config and what follows from them."""

    hidden: int
    heads: int
    key_value_heads: int
    head_dim: int

    @classmethod
    def of(cls, config: ConfigReader, *, head_dim: int | None = None) -> "AttentionHeads":
        """`num_key_value_heads` defaults to all heads, `head_dim` to hidden size over heads."""
        hidden, heads = config.size("hidden_size"), config.size("num_attention_heads")
        return cls(
            hidden,
            heads,
            config.size("num_key_value_heads", default=heads),
            head_dim
            or config.optional_size("head_dim")
            or config.quotient(hidden, heads, "hidden_size"),
        )

    def weights(
        self,
        *,
        bias: bool = False,
        output_bias: bool | None = None,
        query_factor: int = 1,
        output: int | None = None,
    ) -> Weights:
        """Q, K, V and output projection; `query_factor` 2 where Q carries a gate.

        *output* is the width of the output where it is not that of the input.
        """
        queries, keys = self.heads * self.head_dim, self.key_value_heads * self.head_dim
        return (
            linear(self.hidden, queries * query_factor, bias=bias)
            + 2 * linear(self.hidden, keys, bias=bias)
            + linear(
                queries, output or self.hidden, bias=bias if output_bias is None else output_bias
            )
        )

    def cache(self, window_tokens: int | None = None) -> Attention:
        """Keys and values that a layer of these heads keeps."""
        return Attention(
            heads=self.heads,
            key_value_heads=self.key_value_heads,
            head_dim=self.head_dim,
            window_tokens=window_tokens,
        )


def attention_layer(attention: Attention, weights: Weights) -> Layer:
    """A layer of full or window attention."""
    kind: LayerKind = "full_attention" if attention.window_tokens is None else "window_attention"
    return Layer(kinds=(kind,), weights=weights, attention=attention)


def attention_layers(
    config: ConfigReader, kinds: list[str], heads: AttentionHeads, weights: Weights
) -> tuple[Layer, ...]:
    """Attention in every layer, with `sliding_window` where the kind is `sliding_attention`."""
    window = config.optional_size("sliding_window")
    return tuple(
        attention_layer(heads.cache(window if kind == "sliding_attention" else None), weights)
        for kind in kinds
    )
