"""Copies of the state of a compiled model's slots, for the prefix cache."""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import torch

from service.torch_host.compiled.codegen.lanes import LANES
from service.torch_host.compiled.heads import KEY_TOKENS
from service.torch_host.compiled.states import KeyValues, Slots

BLOCK_TOKENS: Final = KEY_TOKENS
"""Tokens of a block: what capacities and dropped tokens of a window are multiples of."""

Bytes = np.ndarray[Any, np.dtype[np.uint8]]


class SlotSnapshot(NamedTuple):
    """State of a slot at one length, without its whole blocks of full attention."""

    tails: list[Bytes]
    """Of each group of full attention, the tokens behind the last whole block."""
    windows: list[Bytes]
    """Of each group with a window, the tokens that later ones may see."""
    states: list[Bytes]
    """Convolution and recurrent states."""


class CompiledStateCopies:
    """Copies and restores slots; packed keys and values are copied as attention reads them.

    Keys are packed by 16 tokens and values by pairs, so a partial panel is copied as a whole: what
    lies in it behind the last token is overwritten by the next ones, or never read. NumPy copies in
    this thread: torch would wake its team for every few kilobytes, and wait for it.
    """

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self._full = [group for group in slots.groups if not group.window_tokens]
        self._windowed = [group for group in slots.groups if group.window_tokens]

    @property
    def by_snapshot(self) -> bool:
        """True if there are recurrent states or windows."""
        return bool(self._windowed or self._slots.states(0))

    @property
    def decode_differs(self) -> bool:
        """True if a decoded token leaves another state than a prefilled one."""
        return self._slots.decode_differs

    @property
    def block_bytes(self) -> int:
        """Bytes of a block's keys and values in layers of full attention."""
        return sum(BLOCK_TOKENS * group.token_bytes for group in self._full)

    def snapshot_bytes(self, slot: int) -> int:
        """Bytes that a snapshot of a slot would take now."""
        length = self._slots.lengths[slot]
        tail = _whole_panels(length % BLOCK_TOKENS)
        held = sum(state.nbytes for state in self._slots.states(slot))
        held += sum(tail * group.token_bytes for group in self._full)
        for group in self._windowed:
            held += _whole_panels(length - _first_seen(group, length)) * group.token_bytes
        return held

    def copy_block(self, slot: int, index: int) -> list[Bytes]:
        """Copy one block that lies in the slot completely, group by group."""
        first = index * BLOCK_TOKENS
        return [_copy(group, slot, first, first + BLOCK_TOKENS) for group in self._full]

    def copy_snapshot(self, slot: int) -> SlotSnapshot:
        """Copy all of a slot's state that its whole blocks do not hold."""
        length = self._slots.lengths[slot]
        whole = length - length % BLOCK_TOKENS
        return SlotSnapshot(
            [_copy(group, slot, whole, length) for group in self._full if length > whole],
            [_copy(group, slot, _first_seen(group, length), length) for group in self._windowed],
            [_bytes(state).copy() for state in self._slots.states(slot)],
        )

    def restore(
        self,
        slot: int,
        tokens: int,
        blocks: Sequence[Sequence[Bytes]],
        snapshot: SlotSnapshot | None,
    ) -> None:
        """Put the state after so many tokens into a cleared slot."""
        whole = len(blocks) * BLOCK_TOKENS
        for index, group in enumerate(self._full):
            group.begin_at(slot, 0, tokens)
            for number, block in enumerate(blocks):
                _paste(group, slot, number * BLOCK_TOKENS, block[index])
            if snapshot is not None and tokens > whole:
                _paste(group, slot, whole, snapshot.tails[index])
        if snapshot is not None:
            for group, window in zip(self._windowed, snapshot.windows, strict=True):
                first = _first_seen(group, tokens)
                group.begin_at(slot, first, tokens)
                _paste(group, slot, first, window)
            for state, copied in zip(self._slots.states(slot), snapshot.states, strict=True):
                _bytes(state)[:] = copied
        self._slots.lengths[slot] = tokens


def _first_seen(group: KeyValues, length_tokens: int) -> int:
    """First token, a multiple of a block, that a later one may see through the window."""
    return max(0, length_tokens - group.window_tokens + 1) // BLOCK_TOKENS * BLOCK_TOKENS


def _whole_panels(tokens: int) -> int:
    return -(-tokens // LANES) * LANES


def _copy(group: KeyValues, slot: int, first: int, end: int) -> Bytes:
    """Keys and values of some tokens, packed: (layers * heads, bytes)."""
    skipped, kept = first - int(group.dropped[slot]), _whole_panels(end - first)
    parts = [
        part[:, skipped * width : (skipped + kept) * width]
        for part, width in zip(map(_bytes, group.parts(slot)), group.row_bytes, strict=True)
    ]
    return np.concatenate(parts, axis=1)


def _paste(group: KeyValues, slot: int, first: int, copied: Bytes) -> None:
    """Write a copy back, from its first token on."""
    skipped = first - int(group.dropped[slot])
    kept = copied.shape[1] // sum(group.row_bytes)
    begin = 0
    for part, width in zip(map(_bytes, group.parts(slot)), group.row_bytes, strict=True):
        columns = copied[:, begin : begin + kept * width]
        part[:, skipped * width : (skipped + kept) * width] = columns
        begin += kept * width


def _bytes(tensor: torch.Tensor) -> Bytes:
    """The memory of a tensor, whatever its type: NumPy has no bfloat16."""
    return tensor.view(torch.uint8).numpy()
