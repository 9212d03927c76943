"""LongRoPE: rotary frequencies that depend on a sequence's length, as in Phi-3.5.

Sequences up to `switch_tokens` are rotated with short factors, longer ones with long factors, the
keys of their earlier tokens included. transformers decides by the longest sequence of a batch, and
its `generate` recomputes the cache when a sequence crosses the switch. Here each slot has its own
factors: a prompt known to be long is rotated with the long ones from its first token, and a
sequence that crosses while it is decoded is prefilled again.
"""

from typing import Any

from service.core.errors import ModelNotReady


class LongRope:
    """The factors that each slot's sequence is rotated with."""

    def __init__(self, switch_tokens: int, slots: int) -> None:
        self.switch_tokens = switch_tokens
        self._long = [False] * slots

    def begin(self, slot: int, sequence_tokens: int) -> None:
        """Choose the factors of a new sequence by its known number of tokens."""
        self._long[slot] = sequence_tokens > self.switch_tokens

    def holds(self, slot: int, length_tokens: int) -> bool:
        """True if the slot's factors are right for a sequence of this length."""
        return self._long[slot] or length_tokens <= self.switch_tokens

    def is_long(self, slot: int) -> bool:
        """True if the slot's tokens are rotated with the long factors."""
        return self._long[slot]


def long_rope(config: Any, slots: int) -> LongRope | None:  # noqa: ANN401 - a transformers config
    """Read a text config's rotary embedding; None if its frequencies are fixed.

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
