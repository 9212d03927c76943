"""Rotary frequencies that depend on a sequence's length: LongRoPE, used by Phi-3.5.

Up to a length the model rotates with short factors, beyond it with long ones, keys of earlier
tokens included. transformers decides by the longest sequence of a batch, and its `generate`
computes the cache anew when a sequence crosses the length. So here a batch never mixes the two,
and a sequence that crosses is computed anew, which needs its token ids.
"""

from collections.abc import Sequence
from typing import Any

from service.core.errors import ModelNotReady


class LongRope:
    """Which factors a slot's sequence is rotated with."""

    def __init__(self, switch_tokens: int, slots: int) -> None:
        self.switch_tokens = switch_tokens
        self._token_ids: list[list[int]] = [[] for _ in range(slots)]

    def clear(self, slot: int) -> None:
        """A slot starts anew."""
        self._token_ids[slot] = []

    def crosses(self, slot: int, new_tokens: int) -> bool:
        """Whether what the slot holds was rotated with factors that no longer hold."""
        length = len(self._token_ids[slot])
        return 0 < length <= self.switch_tokens < length + new_tokens

    def append(self, slot: int, token_ids: Sequence[int]) -> list[int]:
        """Remember new tokens; returns the whole sequence."""
        self._token_ids[slot].extend(token_ids)
        return self._token_ids[slot]

    def is_long(self, slot: int) -> bool:
        """Whether a slot's tokens, the last one included, are rotated with the long factors."""
        return len(self._token_ids[slot]) > self.switch_tokens


def long_rope(config: Any, slots: int) -> LongRope | None:  # noqa: ANN401 - a transformers config
    """What a text config's rotary embedding needs; None if its frequencies are fixed.

    Raises ModelNotReady for frequencies that change with the longest sequence of a batch.
    """
    parameters = getattr(config, "rope_parameters", None) or {}
    # Models with several kinds of attention layers have parameters for each kind.
    each = [p for p in (parameters, *parameters.values()) if isinstance(p, dict)]
    for kind in (str(p.get("rope_type")) for p in each):
        if "dynamic" in kind:
            raise ModelNotReady(
                f"rope_type {kind!r} makes a sequence depend on its neighbours' lengths in a "
                'batch, so it cannot be served; a fixed scaling such as "yarn" or "linear" can'
            )
    for long in (p for p in each if p.get("rope_type") == "longrope"):
        return LongRope(int(long["original_max_position_embeddings"]), slots)
    return None
