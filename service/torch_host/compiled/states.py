"""State of a compiled model's sequences: growing keys and values, constant recurrent states."""

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import torch

from service.core.events import StateBytes
from service.torch_host.compiled import batch
from service.torch_host.compiled.heads import KEY_TOKENS, Heads, padded_size
from service.torch_host.compiled.memory import aligned_bytes
from service.torch_host.compiled.program import Program

_FIRST_TOKENS: Final = 64


class KeyValues:
    """Keys and values of all slots in attention layers of one shape.

    A slot has one buffer for all layers: for each layer and key head its keys, packed as attention
    reads them, then its values. Where the sequence's final length is announced, the buffer has room
    for it at once and is never copied; the system provides its pages as they are written. Otherwise
    it grows by half. With a window, what no later token sees is dropped when room is needed.
    """

    def __init__(
        self,
        program: Program,
        *,
        heads: int,
        size: int,
        window_tokens: int,
        slots: int,
        limit_tokens: int,
    ) -> None:
        self.heads = heads
        self.size = size
        self.window_tokens = window_tokens
        """0 for full attention."""
        self.layers = 0
        self._room = padded_size(size)
        self._dtype = program.kind.dtype
        self._limit_tokens = limit_tokens
        self._buffers: list[torch.Tensor | None] = [None] * slots
        self.bases = np.zeros(slots, dtype=np.int64)
        self.capacities = np.zeros(slots, dtype=np.int64)
        self.dropped = np.zeros(slots, dtype=np.int64)
        self.expected_tokens: list[int | None] = [None] * slots
        """Most tokens that a slot's sequence can reach, where that is known."""

    def reserve(self, slot: int, length_tokens: int, new_tokens: int) -> None:
        """Grow a slot's buffer if `new_tokens` do not fit behind its `length_tokens`."""
        end = length_tokens + new_tokens
        if end - self.dropped[slot] <= self.capacities[slot]:
            return
        first = 0
        if self.window_tokens:
            first = max(0, length_tokens - self.window_tokens + 1) // KEY_TOKENS * KEY_TOKENS
        first = max(first, int(self.dropped[slot]))
        self._move(slot, first, length_tokens, self._capacity(slot, first, end))

    def begin_at(self, slot: int, first: int, end: int) -> None:
        """Give an empty slot a buffer for the tokens from `first` to `end`, which are restored."""
        self._move(slot, first, first, self._capacity(slot, first, end))

    def parts(self, slot: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Packed keys and values of a slot that has tokens, each (layers * heads, elements)."""
        buffer = self._buffers[slot]
        assert buffer is not None
        return self._parts(buffer, int(self.capacities[slot]))

    @property
    def row_bytes(self) -> tuple[int, int]:
        """Bytes of one token's key and value in a row."""
        return self.size * self._dtype.itemsize, self._room * self._dtype.itemsize

    @property
    def token_bytes(self) -> int:
        """Bytes of a token in all layers."""
        return self.layers * self.heads * (self.size + self._room) * self._dtype.itemsize

    def clear(self, slot: int) -> None:
        """Forget a slot's tokens and give its memory back."""
        self._buffers[slot] = None
        self.bases[slot] = self.capacities[slot] = self.dropped[slot] = 0

    @property
    def buffers(self) -> list[torch.Tensor]:
        """Memory of the slots that have any."""
        return [buffer for buffer in self._buffers if buffer is not None]

    def live_bytes(self, length_tokens: int) -> int:
        """Bytes of the tokens that the next one attends to."""
        held = length_tokens
        if self.window_tokens:
            held = min(held, self.window_tokens - 1)
        return held * self.layers * self.heads * 2 * self.size * self._dtype.itemsize

    def reserved_bytes(self, slot: int) -> int:
        """Bytes of a slot's buffer."""
        buffer = self._buffers[slot]
        return 0 if buffer is None else buffer.nbytes

    def poison(self, slot: int, length_tokens: int) -> None:
        """Overwrite what no token owns with NaN: for tests, which then see whether it is read."""
        buffer = self._buffers[slot]
        if buffer is None:
            return
        held = length_tokens - int(self.dropped[slot])
        keys, values = self._parts(buffer, int(self.capacities[slot]))
        depth = 2 if self._dtype is torch.bfloat16 else 1
        packed = keys.view(keys.shape[0], -1, self.size // depth, 16, depth)
        for token in range(held, int(self.capacities[slot])):
            packed[:, token // 16, :, token % 16] = torch.nan
        pairs = values.view(values.shape[0], -1, self._room, depth)
        for token in range(-(-held // depth) * depth, int(self.capacities[slot])):
            pairs[:, token // depth, :, token % depth] = torch.nan

    def _capacity(self, slot: int, first: int, end: int) -> int:
        """Tokens of a buffer that holds those from `first` to `end` and has room for more."""
        needed = end - first
        expected = self.expected_tokens[slot]
        if expected is None or expected < end:
            spare = max(needed // 2, _FIRST_TOKENS)
        else:
            spare = expected - end
        if self.window_tokens:
            spare = min(spare, self.window_tokens)
        wanted = max(needed, min(needed + spare, self._limit_tokens))
        return -(-wanted // KEY_TOKENS) * KEY_TOKENS

    def _move(self, slot: int, first: int, end: int, capacity: int) -> None:
        """Give a slot a buffer of another capacity, which holds the tokens `first` to `end`."""
        rows = self.layers * self.heads
        width = capacity * (self.size + self._room)
        buffer = aligned_bytes(rows * width * self._dtype.itemsize).view(self._dtype)
        old = self._buffers[slot]
        if old is not None and end > first:
            skipped = first - int(self.dropped[slot])
            kept = -(-(end - first) // 16) * 16
            old_keys, old_values = self._parts(old, int(self.capacities[slot]))
            keys, values = self._parts(buffer, capacity)
            here = slice(skipped * self.size, (skipped + kept) * self.size)
            keys[:, : kept * self.size] = old_keys[:, here]
            here = slice(skipped * self._room, (skipped + kept) * self._room)
            values[:, : kept * self._room] = old_values[:, here]
        self._buffers[slot] = buffer
        self.bases[slot] = buffer.data_ptr()
        self.capacities[slot] = capacity
        self.dropped[slot] = first

    def _parts(self, buffer: torch.Tensor, capacity: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values, each (layers * heads, elements)."""
        rows = buffer.view(self.layers * self.heads, -1)
        return rows[:, : capacity * self.size], rows[:, capacity * self.size :]


class Slots:
    """All state of a compiled model, and which slots are taken."""

    def __init__(self, program: Program, *, slots: int, limit_tokens: int) -> None:
        self.total = slots
        self.lengths = [0] * slots
        self.decode_differs = False
        """Whether a decoded token leaves another state than a prefilled one."""
        self._program = program
        self._limit_tokens = limit_tokens
        self._groups: list[KeyValues] = []
        self._convolutions: list[torch.Tensor] = []
        self._recurrent: list[torch.Tensor] = []
        self._taken: set[int] = set()
        self._tables: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        program.reaches(self._memory)

    def attention(
        self, queries: int, keys: int, size: int, *, window_tokens: int | None = None
    ) -> Heads:
        """Add an attention layer to its group of layers."""
        window = window_tokens or 0
        shape = (keys, size, window)
        shapes = [(group.heads, group.size, group.window_tokens) for group in self._groups]
        if shape not in shapes:
            shapes.append(shape)
            self._groups.append(
                KeyValues(
                    self._program,
                    heads=keys,
                    size=size,
                    window_tokens=window,
                    slots=self.total,
                    limit_tokens=self._limit_tokens,
                )
            )
        index = shapes.index(shape)
        group = self._groups[index]
        group.layers += 1
        return Heads(queries, keys, size, group.layers - 1, index, window)

    def convolution(self, channels: int, width: int, dtype: torch.dtype) -> torch.Tensor:
        """A state (slots, channels, width): a causal convolution's last inputs, newest last."""
        self._convolutions.append(self._zeros(channels, width, dtype=dtype))
        return self._convolutions[-1]

    def recurrent(self, *shape: int) -> torch.Tensor:
        """A float32 state (slots, *shape)."""
        self._recurrent.append(self._zeros(*shape, dtype=torch.float32))
        return self._recurrent[-1]

    def take(self) -> int | None:
        """A free slot in the state before the first token; None if all are taken."""
        slot = next((slot for slot in range(self.total) if slot not in self._taken), None)
        if slot is not None:
            self._taken.add(slot)
            self.clear(slot)
            self._expect(slot, None)
        return slot

    def expect(self, slot: int, tokens: int) -> None:
        """Announce the most tokens that a slot's sequence can reach."""
        self._expect(slot, min(tokens, self._limit_tokens))

    def _expect(self, slot: int, tokens: int | None) -> None:
        for group in self._groups:
            group.expected_tokens[slot] = tokens

    def release(self, slot: int) -> None:
        """Free a slot and the memory of its keys and values."""
        self._taken.remove(slot)
        self._forget(slot)

    def clear(self, slot: int) -> None:
        """Put a slot back before its first token."""
        self._forget(slot)
        for state in (*self._convolutions, *self._recurrent):
            state[slot].zero_()

    def reserve(self, slots: Sequence[int], new_tokens: Sequence[int]) -> None:
        """Make room for new tokens and tell the program where the slots' keys and values lie."""
        if not self._taken.issuperset(slots) or len(set(slots)) != len(slots):
            raise ValueError(f"not distinct taken slots: {slots}")
        rows = list(slots)
        head = self._program.head
        self._tables.clear()
        for index, group in enumerate(self._groups):
            for slot, new in zip(slots, new_tokens, strict=True):
                group.reserve(slot, self.lengths[slot], new)
            table = (group.bases[rows], group.capacities[rows], group.dropped[rows])
            self._tables.append(table)
            at = batch.GROUPS + batch.GROUP_FIELDS * index
            head[at : at + batch.GROUP_FIELDS] = [column.ctypes.data for column in table]

    def advance(self, slots: Sequence[int], new_tokens: Sequence[int]) -> None:
        """Count the tokens that a step appended."""
        for slot, new in zip(slots, new_tokens, strict=True):
            self.lengths[slot] += new

    @property
    def groups(self) -> Sequence[KeyValues]:
        """Keys and values, by the shape of their layers."""
        return self._groups

    def states(self, slot: int) -> list[torch.Tensor]:
        """Convolution and recurrent states of one slot, as views."""
        return [state[slot] for state in (*self._convolutions, *self._recurrent)]

    @property
    def has_attention(self) -> bool:
        """True if any layer holds keys and values."""
        return bool(self._groups)

    @property
    def taken(self) -> int:
        """Number of slots in use."""
        return len(self._taken)

    @property
    def reserved_bytes(self) -> int:
        """Bytes reserved for all slots, taken or not."""
        states = sum(state.nbytes for state in (*self._convolutions, *self._recurrent))
        return states + sum(
            group.reserved_bytes(slot) for group in self._groups for slot in range(self.total)
        )

    def state_bytes(self, slot: int) -> StateBytes:
        """Bytes of one slot."""
        length = self.lengths[slot]
        attention = sum(g.live_bytes(length) for g in self._groups if not g.window_tokens)
        window = sum(g.live_bytes(length) for g in self._groups if g.window_tokens)
        convolution = sum(state[slot].nbytes for state in self._convolutions)
        recurrent = sum(state[slot].nbytes for state in self._recurrent)
        reserved = sum(group.reserved_bytes(slot) for group in self._groups)
        return StateBytes(
            attention_kv_bytes=attention,
            window_kv_bytes=window,
            ssm_state_bytes=recurrent,
            conv_state_bytes=convolution,
            snapshot_bytes=0,
            reserved_bytes=reserved + convolution + recurrent,
        )

    def poison(self) -> None:
        """Overwrite all memory that no live token owns with NaN, for tests."""
        for slot in range(self.total):
            if slot in self._taken:
                for group in self._groups:
                    group.poison(slot, self.lengths[slot])
            else:
                for state in (*self._convolutions, *self._recurrent):
                    state[slot] = torch.nan

    def _memory(self) -> Iterator[torch.Tensor | np.ndarray]:
        """All memory that kernels are given."""
        yield from (*self._convolutions, *self._recurrent)
        for table in self._tables:
            yield from table
        for group in self._groups:
            yield from group.buffers

    def _zeros(self, *shape: int, dtype: torch.dtype) -> torch.Tensor:
        # Slots are cleared outside of inference mode too, where its tensors are read-only.
        with torch.inference_mode(mode=False):
            return torch.zeros(self.total, *shape, dtype=dtype)

    def _forget(self, slot: int) -> None:
        self.lengths[slot] = 0
        for group in self._groups:
            group.clear(slot)
