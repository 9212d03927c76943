"""Predicted bytes of a model: weights, and the state of one sequence. Arithmetic only.

What is counted is what transformers 5.23 holds (`cache_utils.py`): the keys and values of
`DynamicLayer` and `DynamicSlidingWindowLayer`, the `conv_states` and `recurrent_states` of
`LinearAttentionLayer`.
"""

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from model_registry.architecture import Layer, read_layers
from model_registry.spec import Dtype

DTYPE_BYTES: dict[Dtype, int] = {"bfloat16": 2, "float16": 2, "float32": 4}


class Footprint(Struct, frozen=True, kw_only=True):
    """Bytes of a model and of the state of one sequence of `context_tokens` tokens."""

    context_tokens: int
    weights_bytes: int
    attention_kv_bytes: int
    """Keys and values of the layers that see the whole context."""
    window_kv_bytes: int
    """Keys and values of the layers with a sliding window."""
    ssm_state_bytes: int
    conv_state_bytes: int

    @property
    def state_bytes(self) -> int:
        """All that one sequence adds to the weights."""
        return (
            self.attention_kv_bytes
            + self.window_kv_bytes
            + self.ssm_state_bytes
            + self.conv_state_bytes
        )


class StateGrowth(Struct, frozen=True, kw_only=True):
    """Growth of a sequence's state with its length: built once per model, used per request."""

    constant_bytes: int
    """Recurrent and convolution state, whatever the length."""
    token_bytes: int
    """Keys and values of one token in the layers that see the whole context."""
    windows: tuple[tuple[int, int], ...]
    """Keys and values of one token in layers with a window, and the tokens that are kept."""

    def kv_bytes(self, tokens: int) -> int:
        """Bytes of keys and values of a sequence of *tokens* tokens."""
        return self.token_bytes * tokens + sum(
            token_bytes * min(tokens, kept_tokens) for token_bytes, kept_tokens in self.windows
        )

    def kv_bytes_summed(self, first: int, end: int) -> int:
        """Sum of `kv_bytes` of the lengths from *first* to before *end*, in tokens."""
        return self.token_bytes * (_up_to(end) - _up_to(first)) + sum(
            token_bytes * (_up_to(end, kept_tokens) - _up_to(first, kept_tokens))
            for token_bytes, kept_tokens in self.windows
        )


def state_growth(
    config: Mapping[str, Any], *, dtype: Dtype = "bfloat16", state_dtype: Dtype = "float32"
) -> StateGrowth:
    """The growth that `predict` computes for one length. Raises UnsupportedArchitecture."""
    element_bytes = DTYPE_BYTES[dtype]
    token_bytes, windows = 0, dict[int, int]()
    layers = read_layers(config).layers
    for layer in layers:
        if layer.attention is None:
            continue
        added = layer.attention.elements_per_token * element_bytes
        if layer.attention.window_tokens:
            kept_tokens = layer.attention.window_tokens - 1
            windows[kept_tokens] = windows.get(kept_tokens, 0) + added
        else:
            token_bytes += added
    return StateGrowth(
        constant_bytes=sum(_state_elements(layer) for layer in layers) * DTYPE_BYTES[state_dtype]
        + sum(_conv_elements(layer) for layer in layers) * element_bytes,
        token_bytes=token_bytes,
        windows=tuple((added, kept_tokens) for kept_tokens, added in windows.items()),
    )


def predict(
    config: Mapping[str, Any],
    *,
    context_tokens: int,
    dtype: Dtype = "bfloat16",
    state_dtype: Dtype = "float32",
) -> Footprint:
    """Bytes of the weights and of one sequence's state.

    - weights = parameters x dtype bytes, tied weights once, all experts;
    - attention KV = layers x 2 x key-value heads x head dimension x tokens x dtype bytes (keys and
      values, arXiv 1911.02150, with grouped heads arXiv 2305.13245);
    - window KV = the same with min(tokens, window - 1): the cache keeps what the next token can
      still see beside itself (`DynamicSlidingWindowLayer`);
    - SSM state = layers x state elements x state dtype bytes: inner x N for Mamba (arXiv
      2312.00752), heads x head dimension x N for Mamba-2 (arXiv 2405.21060), value heads x key x
      value dimension for the gated delta rule (arXiv 2412.06464); transformers keeps it in float32
      whatever the model's dtype;
    - convolution state = layers x channels x columns x dtype bytes.

    Args:
        config: a `config.json`, or the part of it that `read_layers` needs.
        context_tokens: length of the sequence, prompt and answer.
        dtype: of weights, keys, values and convolution state.
        state_dtype: of the recurrent state.

    Raises:
        UnsupportedArchitecture: the type is unknown or a number is missing.
        ValueError: `context_tokens` is negative.
    """
    if context_tokens < 0:
        raise ValueError(f"context_tokens is {context_tokens}, not a length")
    mix = read_layers(config)
    element_bytes = DTYPE_BYTES[dtype]
    full = [layer for layer in mix.layers if layer.attention and not layer.attention.window_tokens]
    window = [layer for layer in mix.layers if layer.attention and layer.attention.window_tokens]
    return Footprint(
        context_tokens=context_tokens,
        weights_bytes=mix.parameters * element_bytes,
        attention_kv_bytes=sum(_kv_elements(layer, context_tokens) for layer in full)
        * element_bytes,
        window_kv_bytes=sum(_kv_elements(layer, context_tokens) for layer in window)
        * element_bytes,
        ssm_state_bytes=sum(_state_elements(layer) for layer in mix.layers)
        * DTYPE_BYTES[state_dtype],
        conv_state_bytes=sum(_conv_elements(layer) for layer in mix.layers) * element_bytes,
    )


def _up_to(end: int, most: int | None = None) -> int:
    """Sum of the numbers below *end*, each cut to *most*."""
    if most is None or end <= most:
        return end * (end - 1) // 2
    return most * (most - 1) // 2 + (end - most) * most


def _kv_elements(layer: Layer, context_tokens: int) -> int:
    attention = layer.attention
    assert attention is not None
    kept_tokens = context_tokens
    if attention.window_tokens is not None:
        kept_tokens = min(context_tokens, attention.window_tokens - 1)
    return attention.elements_per_token * kept_tokens


def _state_elements(layer: Layer) -> int:
    return layer.recurrent.state_elements if layer.recurrent else 0


def _conv_elements(layer: Layer) -> int:
    if layer.recurrent is None:
        return 0
    return layer.recurrent.conv_channels * layer.recurrent.conv_columns
