"""A hosted model that runs as transformers wrote it, on the slot cache."""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedModel

from model_registry.spec import ResolvedModel
from service.core.events import ModelBuild, ModelMemory, StateBytes
from service.engines.torch.eager import attention
from service.engines.torch.eager.continuation import repair_continuation
from service.engines.torch.eager.slots import Slots
from service.engines.torch.rope import long_rope


class EagerModel:
    """One loaded model and its slots. Not thread-safe: one loop owns it.

    transformers' modelling code runs unmodified on the slots' cache. No batch is ever padded:
    several slots advance by one token each, or one slot by many.
    """

    def __init__(
        self, network: PreTrainedModel, resolved: ResolvedModel, build: ModelBuild, *, slots: int
    ) -> None:
        text = network.config.get_text_config(decoder=True)
        self.resolved = resolved
        self.build = build
        self.context_tokens = resolved.spec.context_tokens
        self.vocabulary_tokens = int(text.vocab_size)
        self.slots_total = slots
        self._network = network
        self._device = network.device
        accepted = inspect.signature(network.forward).parameters
        self._cache_argument = "cache_params" if "cache_params" in accepted else "past_key_values"
        self._takes_positions = "position_ids" in accepted
        self._long_rope = long_rope(text, slots)
        self._weights_bytes = _weights_bytes(network)
        self._slots = Slots(self._filled_cache(text), slots=slots, limit_tokens=self.context_tokens)
        if self._slots.has_attention:
            network.set_attn_implementation(attention.IMPLEMENTATION)
        repair_continuation(network)
        self._try_out()

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
        wanted = len(token_ids) if every_logit else 1
        logits = self._forward([slot], [sequence], logits=wanted, prefilling=True)[0]
        return logits if every_logit else logits[-1]

    def decode(self, slots: Sequence[int], token_ids: Sequence[int]) -> torch.Tensor:
        """Append one token to each slot; float32 logits, shape (slots, vocabulary)."""
        if self._long_rope is None:
            return self._forward(slots, [[token] for token in token_ids])[:, -1]
        token_of = dict(zip(slots, token_ids, strict=True))
        crossing = [slot for slot in slots if self._long_rope.crosses(slot, 1)]
        rows = {slot: self.prefill(slot, [token_of[slot]]) for slot in crossing}
        for long in (False, True):
            batch = [s for s in slots if s not in rows and self._long_rope.is_long(s) is long]
            if batch:
                ids = [[token_of[slot]] for slot in batch]
                rows |= zip(batch, self._forward(batch, ids)[:, -1], strict=True)
        for slot in slots:
            if slot not in crossing:
                self._long_rope.append(slot, [token_of[slot]])
        return torch.stack([rows[slot] for slot in slots])

    def length_tokens(self, slot: int) -> int:
        """Tokens that a slot's state has seen."""
        return self._slots.lengths[slot]

    def state_bytes(self, slot: int) -> StateBytes:
        """Bytes of a slot's state, read off the live cache tensors."""
        return self._slots.state_bytes(slot)

    def memory(self) -> ModelMemory:
        """Bytes held now."""
        return ModelMemory(
            weights_bytes=self._weights_bytes,
            slots_bytes=self._slots.reserved_bytes,
            slots_total=self.slots_total,
            slots_used=self._slots.taken,
        )

    def close(self) -> None:
        """Drop weights and slots."""
        del self._network, self._slots

    @torch.inference_mode()
    def poison(self) -> None:
        """Overwrite all memory that no live token owns with NaN, for tests."""
        self._slots.poison()

    @torch.inference_mode()
    def _forward(
        self,
        slots: Sequence[int],
        token_ids: Sequence[Sequence[int]],
        *,
        logits: int = 1,
        prefilling: bool = False,
    ) -> torch.Tensor:
        """Advance slots by equally many tokens; float32 logits (slots, logits, vocabulary)."""
        order = self._slots.select(slots)
        self._slots.cache.prefilling = prefilling
        if order != list(slots):
            ids_of = dict(zip(slots, token_ids, strict=True))
            token_ids = [ids_of[slot] for slot in order]
        ids = torch.tensor(token_ids, device=self._device)
        starts = torch.tensor([self._slots.lengths[slot] for slot in order], device=self._device)
        inputs: dict[str, Any] = {self._cache_argument: self._slots.cache}
        if self._takes_positions:
            inputs["position_ids"] = starts[:, None] + torch.arange(
                ids.shape[1], device=self._device
            )
        output = self._network(ids, use_cache=True, logits_to_keep=logits, **inputs)
        self._slots.advance(order, ids.shape[1])
        result: torch.Tensor = output.logits.float()
        if order != list(slots):
            result = result[[order.index(slot) for slot in slots]]
        return result

    def _try_out(self) -> None:
        """Begin, continue and step a sequence, so that what cannot run fails at load."""
        slot = self.take()
        assert slot is not None
        self.prefill(slot, [0, 0])
        self.prefill(slot, [0, 0])
        self.decode([slot], [0])
        self.release(slot)

    @torch.inference_mode()
    def _filled_cache(self, text_config: Any) -> DynamicCache:  # noqa: ANN401 - a config
        """The cache that transformers itself fills: which states there are, and their shapes."""
        cache = DynamicCache(config=text_config)
        ids = torch.zeros(1, 2, dtype=torch.long, device=self._device)
        self._network(ids, use_cache=True, logits_to_keep=1, **{self._cache_argument: cache})
        return cache


def _weights_bytes(network: torch.nn.Module) -> int:
    """Bytes of parameters and buffers, shared storage once."""
    storages = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for tensor in (*network.parameters(), *network.buffers())
    }
    return sum(storages.values())
