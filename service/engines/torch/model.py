"""What the engine loop needs of a hosted model: slots, and two verbs, prefill and decode."""

from collections.abc import Sequence
from typing import Protocol

import torch

from model_registry.spec import ResolvedModel
from service.core.events import ModelBuild, ModelMemory, StateBytes


class SlotModel(Protocol):
    """One loaded model and its slots. Not thread-safe: one loop owns it.

    No batch is ever padded: several slots advance by one token each, or one slot by many.
    """

    resolved: ResolvedModel
    build: ModelBuild
    context_tokens: int
    vocabulary_tokens: int
    slots_total: int

    def take(self) -> int | None:
        """A free slot, its state cleared; None if all are taken."""

    def release(self, slot: int) -> None:
        """Free a slot at once."""

    def prefill(
        self, slot: int, token_ids: Sequence[int], *, every_logit: bool = False
    ) -> torch.Tensor:
        """Append a chunk of tokens to a slot's state.

        Returns float32 logits of the last token, shape (vocabulary,), or of every token, shape
        (tokens, vocabulary).
        """

    def decode(self, slots: Sequence[int], token_ids: Sequence[int]) -> torch.Tensor:
        """Append one token to each slot; float32 logits, shape (slots, vocabulary)."""

    def length_tokens(self, slot: int) -> int:
        """Tokens that a slot's state has seen."""

    def state_bytes(self, slot: int) -> StateBytes:
        """Bytes of a slot's state, read off the live tensors."""

    def memory(self) -> ModelMemory:
        """Bytes held now."""

    def close(self) -> None:
        """Drop weights and slots."""

    def poison(self) -> None:
        """Overwrite all memory that no live token owns with NaN, for tests."""
