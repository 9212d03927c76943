"""Slot cache: the state of many sequences in attention, recurrent and hybrid layers.

transformers gives every architecture the same cache object, a list of layers that hold keys and
values, convolution and recurrent states, or both. Here the same interface serves sequences that
start and end independently: a request takes a slot, every step selects the slots that it advances,
and a finished request frees its slot. Keys and values are stored per slot, each with its own
length. Recurrent states are one tensor per layer whose rows are sequences; a step works on a range
of rows in place, so rows move only when the set of sequences in a step changes.
"""

from collections.abc import Sequence
from typing import Any

import torch
from transformers.cache_utils import (
    Cache,
    CacheLayerMixin,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    LinearAttentionCacheLayerMixin,
    LinearAttentionLayer,
)

from service.core.events import StateBytes
from service.torch_host.eager.attention import Attended, Masks
from service.torch_host.eager.states import KeyValues, StateRows


class AttentionLayer(CacheLayerMixin):
    """Keys and values of an attention layer, behind transformers' cache interface."""

    def __init__(
        self, window_tokens: int | None, masks: Masks, *, slots: int, limit_tokens: int
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.window_tokens = window_tokens
        self.masks = masks
        self.of_slot = [KeyValues(window_tokens, limit_tokens) for _ in range(slots)]
        self.selected: list[KeyValues] = []
        self.is_initialized = True

    def update(  # type: ignore[override]
        self,
        key_states: torch.Tensor,
        value_states: torch.Tensor,
        *args: object,  # noqa: ARG002 - transformers' signature
        **kwargs: object,  # noqa: ARG002
    ) -> tuple[Attended, None]:
        """Append (rows, heads, tokens, size) to the selected slots; return what `attend` reads."""
        attended = Attended([], [], self.window_tokens, self.masks)
        for slot, keys, values in zip(
            self.selected, key_states.unbind(), value_states.unbind(), strict=True
        ):
            all_keys, all_values = slot.append(keys, values)
            attended.keys.append(all_keys)
            attended.values.append(all_values)
        return attended, None

    def get_seq_length(self) -> int:
        """Length of the longest selected sequence; models are given positions and no mask."""
        return max((slot.length_tokens for slot in self.selected), default=0)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length and offset of a mask."""
        return self.get_seq_length() + query_length, 0

    def get_max_length(self) -> int:
        """No maximum."""
        return -1

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Nothing to do: keys and values are reserved when they come."""


class RecurrentLayer(LinearAttentionLayer):
    """Convolution and recurrent states; transformers updates the selected rows in place."""

    def __init__(self, like: LinearAttentionCacheLayerMixin, *, slots: int) -> None:
        super().__init__(number_of_states=like.number_of_states)
        self.conv = {
            index: StateRows(state, slots)
            for index, state in like.conv_states.items()
            if state is not None
        }
        self.recurrent = {
            index: StateRows(state, slots)
            for index, state in like.recurrent_states.items()
            if state is not None
        }
        # A cleared state is the state before the first token: no sequence is ever without one.
        self.has_previous_state = dict.fromkeys(self.has_previous_state, True)
        self.is_conv_states_initialized |= dict.fromkeys(self.conv, True)
        self.is_recurrent_states_initialized |= dict.fromkeys(self.recurrent, True)
        self.conv_kernel_size = dict(like.conv_kernel_size)
        self.dtype, self.device = like.dtype, like.device

    def select(self, rows: slice) -> None:
        """Expose these rows to transformers as its batch."""
        self.conv_states |= {index: state.tensor[rows] for index, state in self.conv.items()}
        self.recurrent_states |= {
            index: state.tensor[rows] for index, state in self.recurrent.items()
        }


class HybridLayer(RecurrentLayer, AttentionLayer):  # type: ignore[override]
    """Attention and a recurrent mixer in one layer."""

    def __init__(
        self,
        like: LinearAttentionCacheLayerMixin,
        window_tokens: int | None,
        masks: Masks,
        *,
        slots: int,
        limit_tokens: int,
    ) -> None:
        AttentionLayer.__init__(self, window_tokens, masks, slots=slots, limit_tokens=limit_tokens)
        RecurrentLayer.__init__(self, like, slots=slots)


class SlotCache(Cache):
    """The cache that models get as `past_key_values` or `cache_params`."""

    prefilling = False
    """Whether this forward pass is a prefill, even of one token."""


class Slots:
    """State of all sequences of a model.

    Made from a cache that transformers itself filled: its layers say which states there are, and
    in which shapes and element types.
    """

    def __init__(self, like: Cache, *, slots: int, limit_tokens: int) -> None:
        self.total = slots
        self.lengths = [0] * slots
        """Tokens appended to each slot."""
        self._masks = Masks()
        layers = [
            _layer_like(layer, self._masks, slots=slots, limit_tokens=limit_tokens)
            for layer in like.layers
        ]
        self.cache = SlotCache(layers=layers)
        self._attention = [layer for layer in layers if isinstance(layer, AttentionLayer)]
        self._recurrent = [layer for layer in layers if isinstance(layer, RecurrentLayer)]
        self._taken: set[int] = set()
        self._slot_at = list(range(slots))
        self._row_of = list(range(slots))
        self._selected_rows: slice | None = None

    @property
    def has_attention(self) -> bool:
        """True if any layer holds keys and values."""
        return bool(self._attention)

    def take(self) -> int | None:
        """Take a free slot, cleared; None if all are taken."""
        row = next((r for r, slot in enumerate(self._slot_at) if slot not in self._taken), None)
        if row is None:
            return None
        slot = self._slot_at[row]
        self._taken.add(slot)
        self.clear(slot)
        return slot

    def expect(self, slot: int, tokens: int) -> None:
        """Change nothing: a GPU's allocator would reserve it all at once, so buffers grow."""

    def release(self, slot: int) -> None:
        """Free a slot and the memory of its keys and values."""
        self._taken.remove(slot)
        self._clear_attention(slot)

    def clear(self, slot: int) -> None:
        """Reset a slot to the state before its first token."""
        self._clear_attention(slot)
        for state in self._states():
            state.clear(self._row_of[slot])

    def select(self, slots: Sequence[int]) -> list[int]:
        """Select the batch of the next step; return its slots in the batch's order."""
        if not self._taken.issuperset(slots) or len(set(slots)) != len(slots):
            raise ValueError(f"not distinct taken slots: {list(slots)}")
        self._masks.clear()
        order = self._arrange(slots) if self._recurrent else list(slots)
        for layer in self._attention:
            layer.selected = [layer.of_slot[slot] for slot in order]
        return order

    def advance(self, slots: Sequence[int], tokens: int) -> None:
        """Count the tokens that a step has appended."""
        for slot in slots:
            self.lengths[slot] += tokens

    @property
    def taken(self) -> int:
        """Number of taken slots."""
        return len(self._taken)

    def state_bytes(self, slot: int) -> StateBytes:
        """Bytes of one slot, summed over its tensors."""
        attention, window, reserved = 0, 0, 0
        for layer in self._attention:
            held = layer.of_slot[slot]
            reserved += held.reserved_bytes
            if layer.window_tokens is None:
                attention += held.live_bytes
            else:
                window += held.live_bytes
        conv = sum(s.row_bytes for layer in self._recurrent for s in layer.conv.values())
        ssm = sum(s.row_bytes for layer in self._recurrent for s in layer.recurrent.values())
        return StateBytes(
            attention_kv_bytes=attention,
            window_kv_bytes=window,
            ssm_state_bytes=ssm,
            conv_state_bytes=conv,
            snapshot_bytes=0,
            reserved_bytes=reserved + conv + ssm,
        )

    @property
    def reserved_bytes(self) -> int:
        """Bytes reserved for all slots, taken or not."""
        states = sum(state.tensor.nbytes for state in self._states())
        return states + sum(
            held.reserved_bytes for layer in self._attention for held in layer.of_slot
        )

    def poison(self) -> None:
        """Overwrite with NaN all memory that no live token owns, for tests."""
        for layer in self._attention:
            for held in layer.of_slot:
                held.poison()
        for state in self._states():
            for slot in set(range(self.total)) - self._taken:
                state.tensor[self._row_of[slot]] = torch.nan

    def _clear_attention(self, slot: int) -> None:
        self.lengths[slot] = 0
        for layer in self._attention:
            layer.of_slot[slot].clear()

    def _states(self) -> list[StateRows]:
        return [
            state
            for layer in self._recurrent
            for state in (*layer.conv.values(), *layer.recurrent.values())
        ]

    def _arrange(self, slots: Sequence[int]) -> list[int]:
        """Make the slots' rows adjacent and select them; return the slots in row order."""
        rows = [self._row_of[slot] for slot in slots]
        first = min(rows)
        if max(rows) - first >= len(rows):
            first = 0
            strangers = [r for r in range(len(slots)) if self._slot_at[r] not in set(slots)]
            for row in sorted(r for r in rows if r >= len(slots)):
                self._exchange(row, strangers.pop(0))
        selected = slice(first, first + len(slots))
        if selected != self._selected_rows:
            for layer in self._recurrent:
                layer.select(selected)
            self._selected_rows = selected
        return self._slot_at[selected]

    def _exchange(self, row: int, other: int) -> None:
        """Exchange a live row with another, which is kept only if it is live too."""
        slot, displaced = self._slot_at[row], self._slot_at[other]
        for state in self._states():
            if displaced in self._taken:
                state.swap(row, other)
            else:
                state.move(row, other)
        self._slot_at[row], self._slot_at[other] = displaced, slot
        self._row_of[slot], self._row_of[displaced] = other, row


def _layer_like(
    layer: Any,  # noqa: ANN401 - transformers has no common class for cache layers
    masks: Masks,
    *,
    slots: int,
    limit_tokens: int,
) -> Any:  # noqa: ANN401
    """Build the slot layer for one of transformers' cache layers. Raises TypeError if unknown."""
    if type(layer).__name__ == "DummyLayer":  # by name: transformers does not export it
        return layer
    known = (DynamicLayer, DynamicSlidingWindowLayer)
    attention = isinstance(layer, CacheLayerMixin)
    recurrent = isinstance(layer, LinearAttentionCacheLayerMixin)
    if (attention and not recurrent and type(layer) not in known) or not (attention or recurrent):
        raise TypeError(f"no slots for cache layers of type {type(layer).__name__}")
    window = getattr(layer, "sliding_window", None)
    if attention and recurrent:
        return HybridLayer(layer, window, masks, slots=slots, limit_tokens=limit_tokens)
    if recurrent:
        return RecurrentLayer(layer, slots=slots)
    return AttentionLayer(window, masks, slots=slots, limit_tokens=limit_tokens)
