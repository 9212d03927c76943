"""EagerModel: transformers' own modelling code on the slot cache."""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedModel

from model_registry.spec import ResolvedModel
from service.core.events import ModelBuild
from service.torch_host.eager import attention
from service.torch_host.eager.continuation import repair_continuation
from service.torch_host.eager.long_factors import LongFactors
from service.torch_host.eager.slots import Slots
from service.torch_host.slot_model import SlotModel


class EagerModel(SlotModel):
    """A model that runs as transformers wrote it. Not thread-safe: one loop owns it.

    transformers' modelling code runs unmodified on the slots' cache. No batch is ever padded:
    several slots advance by one token each, or one slot by many.
    """

    def __init__(
        self, network: PreTrainedModel, resolved: ResolvedModel, build: ModelBuild, *, slots: int
    ) -> None:
        text = network.config.get_text_config(decoder=True)
        super().__init__(text, resolved, build, slots=slots)
        self._network = network
        self._device = network.device
        accepted = inspect.signature(network.forward).parameters
        self._cache_argument = "cache_params" if "cache_params" in accepted else "past_key_values"
        self._takes_positions = "position_ids" in accepted
        self._weights_bytes, self._workspace_bytes = _weights_bytes(network), None
        self._slots: Slots = Slots(
            self._filled_cache(text), slots=slots, limit_tokens=self.context_tokens
        )
        if self._slots.has_attention:
            network.set_attn_implementation(attention.IMPLEMENTATION)
        repair_continuation(network)
        self._long_factors = (
            None
            if self._long_rope is None
            else LongFactors(network, switch_tokens=self._long_rope.switch_tokens)
        )
        self._try_out()

    def close(self) -> None:
        """Drop weights and slots."""
        del self._network, self._slots

    def _prefill(self, slot: int, token_ids: Sequence[int], *, logits: int) -> torch.Tensor:
        return self._forward([slot], [token_ids], logits=logits, prefilling=True)[0]

    def _decode(self, slots: Sequence[int], token_ids: Sequence[int]) -> torch.Tensor:
        if self._long_rope is None:
            return self._forward(slots, [[token] for token in token_ids])[:, -1]
        # transformers rotates a batch with one set of factors.
        token_of = dict(zip(slots, token_ids, strict=True))
        rows: dict[int, torch.Tensor] = {}
        for long in (False, True):
            batch = [slot for slot in slots if self._long_rope.is_long(slot) is long]
            if batch:
                ids = [[token_of[slot]] for slot in batch]
                rows |= zip(batch, self._forward(batch, ids)[:, -1], strict=True)
        return torch.stack([rows[slot] for slot in slots])

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
        if self._long_rope is not None and self._long_factors is not None:
            self._long_factors.long = self._long_rope.is_long(slots[0])
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

    @torch.inference_mode()
    def _filled_cache(self, text_config: Any) -> DynamicCache:  # noqa: ANN401 - a config
        """Return a cache filled by transformers itself, which shows all states and their shapes."""
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
