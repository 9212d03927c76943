"""Attention over keys and values that lie where their slots keep them.

transformers' modelling code passes what the cache's `update` returned straight on to the attention
function, so the cache hands over each row's own keys and values instead of one padded batch: a row
reads its own tokens and no others, and its result does not depend on its neighbours' lengths.
"""

from typing import NamedTuple

import torch
from torch.nn import functional
from transformers import AttentionInterface

#: The name that models know this function by.
IMPLEMENTATION = "triptych_slots"


class Masks:
    """Causal masks of one forward pass, built once for all layers that share them."""

    def __init__(self) -> None:
        self._made: dict[tuple[object, ...], torch.Tensor] = {}

    def clear(self) -> None:
        """Drop all masks before a forward pass of other lengths."""
        self._made.clear()

    def causal(
        self, query: torch.Tensor, groups: int, attended_tokens: int, window_tokens: int | None
    ) -> torch.Tensor:
        """Additive mask (groups * queries, attended tokens): the queries are the last tokens."""
        queries = query.shape[2]
        key = (queries, groups, attended_tokens, window_tokens, query.dtype)
        mask = self._made.get(key)
        if mask is None:
            past = attended_tokens - queries
            distance = (
                torch.arange(past, attended_tokens, device=query.device)[:, None]
                - torch.arange(attended_tokens, device=query.device)[None]
            )
            hidden = distance < 0
            if window_tokens is not None:
                hidden |= distance >= window_tokens
            mask = torch.zeros(hidden.shape, dtype=query.dtype, device=query.device)
            mask = mask.masked_fill_(hidden, float("-inf")).repeat(groups, 1)
            self._made[key] = mask
        return mask


class Attended(NamedTuple):
    """Keys and values that one layer's queries attend to in this step."""

    keys: list[torch.Tensor]
    """One a row, (key heads, tokens, head size); the last tokens are the queries' own."""
    values: list[torch.Tensor]
    window_tokens: int | None
    masks: Masks


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    attended: Attended,
    _values: None,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **_: object,
) -> tuple[torch.Tensor, None]:
    """Attention of queries (rows, heads, tokens, head size); returns (rows, tokens, heads, size).

    Query heads that share a key head are folded into the query dimension, so keys and values are
    read once and never repeated. Several rows have one token each; several tokens have one row.
    """
    if softcap is not None or s_aux is not None or attention_mask is not None:
        raise NotImplementedError(
            f"{type(module).__name__} asks for soft-capped scores, attention sinks or a mask of "
            "its own, which the slot cache's attention does not have"
        )
    rows, heads, tokens, size = query.shape
    key_heads = attended.keys[0].shape[0]
    groups = heads // key_heads
    mask = None
    if tokens > 1:
        attended_tokens = attended.keys[0].shape[1]
        mask = attended.masks.causal(query, groups, attended_tokens, attended.window_tokens)
    folded = query.reshape(rows, 1, key_heads, groups * tokens, size)
    mixed = [
        functional.scaled_dot_product_attention(
            row, keys[None], values[None], attn_mask=mask, scale=scaling
        )
        for row, keys, values in zip(folded, attended.keys, attended.values, strict=True)
    ]
    together = mixed[0] if rows == 1 else torch.cat(mixed)
    return together.reshape(rows, heads, tokens, -1).transpose(1, 2).contiguous(), None


AttentionInterface.register(IMPLEMENTATION, attend)
