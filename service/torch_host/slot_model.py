"""A hosted model as the engine loop knows it: slots, and two verbs, prefill and decode."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Protocol

import torch

from model_registry.spec import ResolvedModel
from service.core.events import ModelBuild, ModelMemory, StateBytes
from service.torch_host.long_rope import long_rope


class StateOfSlots(Protocol):
    """Where a model keeps what it remembers of its sequences."""

    lengths: list[int]

    def take(self) -> int | None:
        """A free slot in the state before the first token; None if all are taken."""

    def release(self, slot: int) -> None:
        """Free a slot and the memory of its keys and values."""

    def clear(self, slot: int) -> None:
        """Put a slot back before its first token."""

    def state_bytes(self, slot: int) -> StateBytes:
        """Bytes of one slot, read off the live tensors."""

    def poison(self) -> None:
        """Overwrite all memory that no live token owns with NaN."""

    @property
    def taken(self) -> int:
        """How many slots are taken."""

    @property
    def reserved_bytes(self) -> int:
        """Bytes reserved for all slots, taken or not."""


class SlotModel(ABC):
    """One loaded model and its slots. Not thread-safe: one loop owns it.

    No batch is ever padded: several slots advance by one token each, or one slot by many.
    """

    _slots: StateOfSlots
    _weights_bytes: int
    """Shared storage once."""
    _workspace_bytes: int | None
    """What steps compute in, None if unknown."""

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

    def take(self) -> int | None:
        """A free slot, its state cleared; None if all are taken."""
        slot = self._slots.take()
        if slot is not None and self._long_rope is not None:
            self._long_rope.clear(slot)
        return slot

    def release(self, slot: int) -> None:
        """Free a slot at once."""
        self._slots.release(slot)

    def prefill(
        self, slot: int, token_ids: Sequence[int], *, every_logit: bool = False
    ) -> torch.Tensor:
        """Append a chunk of tokens to a slot's state.

        Returns float32 logits of the last token, shape (vocabulary,), or of every token, shape
        (tokens, vocabulary).
        """
        sequence = token_ids
        if self._long_rope is not None:
            crosses = self._long_rope.crosses(slot, len(token_ids))
            everything = self._long_rope.append(slot, token_ids)
            if crosses:
                self._slots.clear(slot)
                sequence = everything
        logits = self._prefill(slot, sequence, logits=len(token_ids) if every_logit else 1)
        return logits if every_logit else logits[-1]

    def decode(self, slots: Sequence[int], token_ids: Sequence[int]) -> torch.Tensor:
        """Append one token to each slot; float32 logits, shape (slots, vocabulary)."""
        if self._long_rope is None:
            return self._decode(slots, token_ids)
        rows: dict[int, torch.Tensor] = {}
        token_of: dict[int, int] = {}
        for slot, token in zip(slots, token_ids, strict=True):
            if self._long_rope.crosses(slot, 1):
                rows[slot] = self.prefill(slot, (token,))
            else:
                self._long_rope.append(slot, (token,))
                token_of[slot] = token
        if token_of:
            logits = self._decode(list(token_of), list(token_of.values()))
            rows |= zip(token_of, logits, strict=True)
        return torch.stack([rows[slot] for slot in slots])

    def length_tokens(self, slot: int) -> int:
        """Tokens that a slot's state has seen."""
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
            workspace_bytes=self._workspace_bytes,
        )

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
        """Append one token to each slot, of whose earlier ones none must be computed anew."""

    def _try_out(self) -> None:
        """Begin, continue and step a sequence, so that what cannot run fails at load."""
        slot = self.take()
        assert slot is not None
        self.prefill(slot, [0, 0])
        self.prefill(slot, [0, 0])
        self.decode([slot], [0])
        self.release(slot)
