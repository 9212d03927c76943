"""SlotModel: a loaded model as the engine loop sees it, with slots, prefill and decode."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Final, Protocol

import torch

from model_registry.spec import ResolvedModel
from service.core.events import ModelBuild, ModelMemory, StateBytes
from service.torch_host.long_rope import long_rope
from service.torch_host.prefix.copies import StateCopies

SCORED_LOGITS: Final = 2**23
"""Most logits that one chunk of a scored prompt may have: 32 MiB of float32."""

SCORED_TOKENS: Final = 512
"""Most tokens of such a chunk, however small the vocabulary."""


class StateOfSlots(Protocol):
    """The state of all sequences of a model: keys and values, convolution and recurrent states."""

    lengths: list[int]

    def take(self) -> int | None:
        """Take a free slot, cleared; None if all are taken."""

    def expect(self, slot: int, tokens: int) -> None:
        """Announce the most tokens that a slot's sequence can reach."""

    def release(self, slot: int) -> None:
        """Free a slot and the memory of its keys and values."""

    def clear(self, slot: int) -> None:
        """Reset a slot to the state before its first token."""

    def state_bytes(self, slot: int) -> StateBytes:
        """Bytes of one slot, read off the live tensors."""

    def poison(self) -> None:
        """Overwrite all memory that no live token owns with NaN."""

    @property
    def taken(self) -> int:
        """Number of taken slots."""

    @property
    def reserved_bytes(self) -> int:
        """Bytes reserved for all slots, taken or not."""


class SlotModel(ABC):
    """A loaded model and its slots. Not thread-safe: one loop owns it.

    No batch is ever padded: several slots advance by one token each, or one slot by many.
    """

    _slots: StateOfSlots
    _weights_bytes: int
    """Shared storage once."""
    _workspace_bytes: int | None
    """Buffers of a step without its logits; None if unknown."""
    copies: StateCopies | None = None
    """Copies of slots for the prefix cache; None where a restored state is not exact."""

    def __init__(
        self,
        config: Any,  # noqa: ANN401 - a transformers text config
        resolved: ResolvedModel,
        build: ModelBuild,
        *,
        slots: int,
    ) -> None:
        self.resolved = resolved
        self.build = build
        self.context_tokens = resolved.spec.context_tokens
        self.vocabulary_tokens = int(config.vocab_size)
        self.slots_total = slots
        self._long_rope = long_rope(config, slots)

    def take(self, *, prompt_tokens: int = 0, most_tokens: int | None = None) -> int | None:
        """Take a free slot, cleared, for a new sequence; None if all are taken.

        `prompt_tokens` is the length of its prompt, by which LongRoPE chooses its factors, and
        `most_tokens` the most that prompt and answer can reach: memory for them is reserved at
        once, so that no step has to copy keys and values into a larger buffer.
        """
        slot = self._slots.take()
        if slot is not None:
            if most_tokens is not None:
                self._slots.expect(slot, most_tokens)
            if self._long_rope is not None:
                self._long_rope.begin(slot, prompt_tokens)
        return slot

    def release(self, slot: int) -> None:
        """Free a slot at once."""
        self._slots.release(slot)

    def must_restart(self, slot: int) -> bool:
        """True if a sequence has to be prefilled again before its next token can be appended."""
        return not self._holds(slot, 1)

    def restart(self, slot: int, *, sequence_tokens: int) -> None:
        """Clear a slot, in order to prefill its *sequence_tokens* tokens again."""
        self._slots.clear(slot)
        if self._long_rope is not None:
            self._long_rope.begin(slot, sequence_tokens)

    def prefill(
        self, slot: int, token_ids: Sequence[int], *, every_logit: bool = False
    ) -> torch.Tensor:
        """Append a chunk of tokens to a slot's state.

        Returns float32 logits of the last token, shape (vocabulary,), or of every token, shape
        (tokens, vocabulary). Raises ValueError if the sequence was begun as a shorter one.
        """
        if self._long_rope is not None and not self._slots.lengths[slot]:
            if not self._holds(slot, len(token_ids)):  # longer than was announced
                self._long_rope.begin(slot, len(token_ids))
        elif not self._holds(slot, len(token_ids)):
            raise ValueError("the sequence has become longer than its LongRoPE factors are for")
        logits = self._prefill(slot, token_ids, logits=len(token_ids) if every_logit else 1)
        return logits if every_logit else logits[-1]

    def decode(self, slots: Sequence[int], token_ids: Sequence[int]) -> torch.Tensor:
        """Append one token to each slot; float32 logits, shape (slots, vocabulary).

        Raises ValueError if one of them `must_restart`.
        """
        if any(map(self.must_restart, slots)):
            raise ValueError("a sequence has become longer than its LongRoPE factors are for")
        return self._decode(slots, token_ids)

    def _holds(self, slot: int, new_tokens: int) -> bool:
        rope = self._long_rope
        return rope is None or rope.holds(slot, self._slots.lengths[slot] + new_tokens)

    def length_tokens(self, slot: int) -> int:
        """Tokens appended to a slot's state."""
        return self._slots.lengths[slot]

    def state_bytes(self, slot: int) -> StateBytes:
        """Bytes of a slot's state, read off the live tensors."""
        return self._slots.state_bytes(slot)

    def memory(self) -> ModelMemory:
        """Bytes held now."""
        return ModelMemory(
            weights_bytes=self._weights_bytes,
            slots_bytes=self._slots.reserved_bytes,
            slots_total=self.slots_total,
            slots_used=self._slots.taken,
            snapshots_bytes=0,
            workspace_bytes=None
            if self._workspace_bytes is None
            else self._workspace_bytes + self._logits_bytes,
        )

    @property
    def rotates_by_length(self) -> bool:
        """True if keys depend on the length of their sequence, as with LongRoPE."""
        return self._long_rope is not None

    @property
    def scored_chunk_tokens(self) -> int:
        """Most tokens of a chunk of which every logit is asked for."""
        return max(1, min(SCORED_TOKENS, SCORED_LOGITS // self.vocabulary_tokens))

    @property
    def _logits_bytes(self) -> int:
        """Bytes of the largest matrix of logits that a step computes, float32."""
        return 4 * self.vocabulary_tokens * max(self.slots_total, self.scored_chunk_tokens)

    def poison(self) -> None:
        """Overwrite all memory that no live token owns with NaN, for tests."""
        with torch.inference_mode():
            self._slots.poison()

    @abstractmethod
    def close(self) -> None:
        """Drop weights and slots."""

    @abstractmethod
    def _prefill(self, slot: int, token_ids: Sequence[int], *, logits: int) -> torch.Tensor:
        """Append tokens to a slot; float32 logits of the last `logits` of them."""

    @abstractmethod
    def _decode(self, slots: Sequence[int], token_ids: Sequence[int]) -> torch.Tensor:
        """Append one token to each slot; float32 logits, shape (slots, vocabulary)."""

    def _try_out(self) -> None:
        """Prefill, continue and decode a sequence, so that a broken model fails at its load."""
        slot = self.take()
        assert slot is not None
        self.prefill(slot, [0, 0])
        self.prefill(slot, [0, 0])
        self.decode([slot], [0])
        self.release(slot)
