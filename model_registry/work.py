"""Work of a request, from the architecture's numbers: operations, and bytes of weights and state.

Independent of the machine and of the engine: the least that the architecture asks for if a request
is computed alone, its prompt in one pass and each further token in one more.

- A multiply-add is two operations. Counted are products with weight matrices (2 an element and
  token, of experts only those that a token uses; arXiv 2001.08361, section 2.1), convolutions
  (2 x channels x width), attention (4 x query heads x head dimension for a query and a key that it
  sees: exactly the causal triangle, cut by a window) and recurrences (their update and read-out
  for each element of the state, see `architecture/mixers.py`), whatever algorithm an engine uses
  for them. Norms, activations, softmax, rotary embeddings and sampling are not.
- The output head is computed for the prompt's last token and for each further one; where the
  prompt's tokens are scored, for each of these.
- Answering *n* tokens takes a prefill, which yields the first, and n - 1 decode steps: the last
  token is not fed back.
- Each pass reads all weights once: of the embedding a row a token, of the experts no more than its
  tokens can use, blocks that several layers use once a layer.
- A decode step reads the keys and values that are kept, writes those of its token, and reads and
  writes recurrent and convolution state whole. A prefill reads what was restored of the prompt,
  writes the keys and values that are kept of the others, and state once.
"""

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from model_registry.architecture import Weights, read_layers
from model_registry.footprint import DTYPE_BYTES, StateGrowth, state_growth
from model_registry.spec import QUANTIZED_WEIGHT_BYTES, Dtype, Quantization


class RequestWork(Struct, frozen=True, kw_only=True):
    """Work of one request."""

    prefill_flops: int
    decode_flops: int
    weight_bytes_read: int | None
    """None where the bytes of a weight are unknown."""
    state_bytes_read: int
    state_bytes_written: int
    decode_bytes: int | None
    """What decode steps read and write of these, weights and state together."""


class WorkFormula(Struct, frozen=True, kw_only=True):
    """The work of a model's requests: built once per model, used per request."""

    token_flops: int
    """Operations for one token, wherever it is: all but attention and the output head."""
    attention: tuple[tuple[int, int | None], ...]
    """Operations for a query and a key, and the window in tokens; None: the whole context."""
    weights: Weights
    """Weights of all layers, those of shared blocks once a use."""
    head: Weights
    hidden: int
    """Elements of an embedding's row."""
    growth: StateGrowth
    weight_bytes: float | None
    """Mean bytes of an element of weights; None where unknown."""
    parameters: int
    """All that the model holds, each weight once."""

    def of(
        self,
        *,
        prompt_tokens: int,
        cached_tokens: int = 0,
        new_tokens: int,
        scored: bool = False,
    ) -> RequestWork:
        """Work of a request that answered *new_tokens*.

        Args:
            prompt_tokens: length of the prompt, at least one.
            cached_tokens: leading tokens of the prompt whose state was restored.
            new_tokens: tokens sampled; 0 if the prompt was only scored.
            scored: the output head is computed for every prefilled token.

        Raises:
            ValueError: a count that no request can have.
        """
        if not 0 <= cached_tokens < prompt_tokens or new_tokens < 0:
            raise ValueError(
                f"no request has {prompt_tokens} prompt tokens, {cached_tokens} of them cached, "
                f"and {new_tokens} new ones"
            )
        prefilled, steps = prompt_tokens - cached_tokens, max(0, new_tokens - 1)
        heads = prefilled if scored else 1
        end = prompt_tokens + steps
        growth = self.growth
        prefill_weights = self._weight_bytes(prefilled)
        step_weights = self._weight_bytes(1)
        step_reads = growth.kv_bytes_summed(prompt_tokens, end) + steps * growth.constant_bytes
        step_writes = steps * (growth.kv_bytes(1) + growth.constant_bytes)
        return RequestWork(
            prefill_flops=prefilled * self.token_flops
            + heads * 2 * self.head.products
            + self._attention_flops(cached_tokens, prompt_tokens),
            decode_flops=steps * (self.token_flops + 2 * self.head.products)
            + self._attention_flops(prompt_tokens, end),
            weight_bytes_read=None
            if prefill_weights is None or step_weights is None
            else prefill_weights + steps * step_weights,
            state_bytes_read=(
                growth.kv_bytes(cached_tokens) + growth.constant_bytes if cached_tokens else 0
            )
            + step_reads,
            state_bytes_written=growth.kv_bytes(prefilled) + growth.constant_bytes + step_writes,
            decode_bytes=None
            if step_weights is None
            else steps * step_weights + step_reads + step_writes,
        )

    def _attention_flops(self, first: int, end: int) -> int:
        """Operations of attention for the tokens from *first* to before *end*."""
        return sum(
            pair_flops * (seen(end, window) - seen(first, window))
            for pair_flops, window in self.attention
        )

    def _weight_bytes(self, tokens: int) -> int | None:
        """Bytes of weights that a pass over *tokens* tokens reads."""
        if self.weight_bytes is None:
            return None
        elements = self.weights.read(tokens) + self.head.elements + tokens * self.hidden
        return round(elements * self.weight_bytes)


def seen(tokens: int, window: int | None) -> int:
    """Keys that the first *tokens* tokens of a sequence see together, each its own among them."""
    if window is None or tokens <= window:
        return tokens * (tokens + 1) // 2
    return window * (window + 1) // 2 + (tokens - window) * window


def work_formula(
    config: Mapping[str, Any],
    *,
    dtype: Dtype = "bfloat16",
    state_dtype: Dtype = "float32",
    quantization: Quantization | None = None,
) -> WorkFormula:
    """The formula of a model, from its `config.json` or the part of it that `read_layers` needs.

    Args:
        config: numbers of the architecture.
        dtype: of weights that are not quantized, of keys, values and convolution state.
        state_dtype: of the recurrent state.
        quantization: of the weights. The blocks of `gguf` are of many sizes: bytes are None.

    Raises:
        UnsupportedArchitecture: the type is unknown or a number is missing.
    """
    mix = read_layers(config)
    attention = dict[int | None, int]()
    weights, token_flops = Weights(vectors=mix.norm), 0
    for layer in mix.layers:
        weights = weights + layer.weights + layer.borrowed
        if layer.recurrent is not None:
            token_flops += layer.recurrent.token_flops
        if layer.attention is not None:
            window = layer.attention.window_tokens
            attention[window] = attention.get(window, 0) + layer.attention.pair_flops
    return WorkFormula(
        token_flops=token_flops + 2 * weights.products,
        attention=tuple((flops, window) for window, flops in attention.items()),
        weights=weights,
        head=mix.embeddings.head,
        hidden=mix.embeddings.hidden,
        growth=state_growth(config, dtype=dtype, state_dtype=state_dtype),
        weight_bytes=_weight_bytes(dtype, quantization),
        parameters=mix.parameters,
    )


def _weight_bytes(dtype: Dtype, quantization: Quantization | None) -> float | None:
    if quantization is None:
        return DTYPE_BYTES[dtype]
    return None if quantization == "gguf" else QUANTIZED_WEIGHT_BYTES[quantization]
