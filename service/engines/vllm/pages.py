"""State of a sequence in vLLM: blocks of equal pages. Arithmetic only.

The rules are those of vLLM 0.32 without prefix caching (`v1/core/kv_cache_utils.py`,
`platforms/interface.py`, `v1/kv_cache_interface.py`); a test compares the results with what a
running vLLM reports.
"""

import math
from collections.abc import Mapping
from typing import Any, Final, Literal

from msgspec import Struct

from model_registry.architecture import Layer, read_layers
from model_registry.footprint import DTYPE_BYTES
from model_registry.spec import Dtype

Device = Literal["cpu", "cuda"]

#: `platforms/cpu.py` takes 128 where none is asked for; `config/cache.py` has 16.
BLOCK_TOKENS: Final[dict[Device, int]] = {"cpu": 128, "cuda": 16}


class VllmPages(Struct, frozen=True, kw_only=True):
    """The blocks that a model's sequences take.

    Layers of one kind are cut into groups of equal size; a block is one page of each layer of a
    group, so all blocks are equally large. An attention group takes a block for each
    `block_tokens` tokens, a group of states takes one block.
    """

    block_tokens: int | None
    """Tokens of a block of keys and values; None without attention."""
    page_bytes: int
    """One layer's part of a block."""
    group_layers: int
    attention_groups: int
    state_groups: int
    token_bytes: int
    """Keys and values of one token in all layers."""
    ssm_state_bytes: int
    """Recurrent states of a sequence, without padding."""
    conv_state_bytes: int
    """Convolution states of a sequence, without padding."""

    @property
    def block_bytes(self) -> int:
        """Size of a block of the pool that all groups draw from."""
        return self.page_bytes * self.group_layers

    def blocks(self, tokens: int) -> int:
        """Blocks that a sequence of *tokens* tokens takes."""
        attention = 0 if self.block_tokens is None else -(-tokens // self.block_tokens)
        return self.attention_groups * attention + self.state_groups

    def reserved_bytes(self, tokens: int) -> int:
        """Bytes that a sequence of *tokens* tokens takes from others, padding included."""
        return self.blocks(tokens) * self.block_bytes


def vllm_pages(
    config: Mapping[str, Any],
    *,
    max_tokens: int,
    dtype: Dtype = "bfloat16",
    state_dtype: Dtype = "float32",
    device: Device = "cpu",
) -> VllmPages | None:
    """The blocks of a model; None where vLLM's rules for it are not known here.

    - attention page = block tokens x 2 x key-value heads x head dimension x dtype bytes;
    - state page = recurrent state x state dtype bytes + channels x (width - 1) x dtype bytes: vLLM
      keeps the columns before the newest one;
    - a model with both: the block of attention grows, by whole blocks, until its page is no smaller
      than the state page, which is then padded to it (`_align_hybrid_block_size`);
    - groups are as large as the smaller kind, or as the larger one if that is less than half as
      large again (`_get_kv_cache_groups_uniform_page_size`).

    Args:
        config: a `config.json`, or the part of it that `read_layers` needs.
        max_tokens: longest sequence; layers with a shorter window have rules of their own.
        dtype: of keys, values and convolution states.
        state_dtype: of the recurrent states.
        device: what vLLM runs on.

    Raises UnsupportedArchitecture for a type that is unknown.
    """
    layers = read_layers(config).layers
    of_token = {_token_elements(layer, max_tokens) for layer in layers if layer.attention}
    states = {_state_bytes(layer, dtype, state_dtype) for layer in layers if layer.recurrent}
    if None in of_token or len(of_token) > 1 or len(states) > 1 or not of_token | states:
        return None  # windows that slide, or pages of several sizes
    attention_layers = sum(layer.attention is not None for layer in layers)
    state_layers = sum(layer.recurrent is not None for layer in layers)
    token_bytes = max((each or 0 for each in of_token), default=0) * DTYPE_BYTES[dtype]
    ssm_bytes, conv_bytes = next(iter(states), (0, 0))
    block_tokens = BLOCK_TOKENS[device] if attention_layers else None
    page_bytes = ssm_bytes + conv_bytes
    if block_tokens is not None:
        if state_layers:
            block_tokens *= max(1, -(-page_bytes // (block_tokens * token_bytes)))
        page_bytes = block_tokens * token_bytes
    group_layers = _group_layers(attention_layers, state_layers)
    return VllmPages(
        block_tokens=block_tokens,
        page_bytes=page_bytes,
        group_layers=group_layers,
        attention_groups=-(-attention_layers // group_layers),
        state_groups=-(-state_layers // group_layers),
        token_bytes=token_bytes * attention_layers,
        ssm_state_bytes=ssm_bytes * state_layers,
        conv_state_bytes=conv_bytes * state_layers,
    )


def _group_layers(attention_layers: int, state_layers: int) -> int:
    fewer, more = sorted((attention_layers, state_layers))
    return more if more < fewer * 1.5 or not fewer else fewer


def _token_elements(layer: Layer, max_tokens: int) -> int | None:
    attention = layer.attention
    assert attention is not None
    if attention.window_tokens is not None and attention.window_tokens < max_tokens:
        return None
    return attention.elements_per_token


def _state_bytes(layer: Layer, dtype: Dtype, state_dtype: Dtype) -> tuple[int, int]:
    recurrent = layer.recurrent
    assert recurrent is not None
    state = math.prod(recurrent.state_shape) if recurrent.state_shape else 0
    columns = recurrent.conv_columns - 1
    return (
        state * DTYPE_BYTES[state_dtype],
        recurrent.conv_channels * columns * DTYPE_BYTES[dtype],
    )
