"""State of one layer: keys and values that grow, and recurrent states of constant size."""

import torch

#: Tokens that fresh keys and values have room for: most short answers never grow again.
_FIRST_TOKENS = 64


class KeyValues:
    """Keys and values of one sequence in one attention layer.

    They start small and grow by half, so a short sequence never pays for the whole context. With a
    window only what the next token sees beside itself stays: `window - 1` tokens. Nothing but the
    tokens held is ever handed out, so what the memory contained before cannot reach an answer.
    """

    def __init__(self, window_tokens: int | None, limit_tokens: int) -> None:
        self.window_tokens = window_tokens
        """None for full attention."""
        self.keys: torch.Tensor | None = None
        """(heads, capacity, head size), like the values."""
        self.values: torch.Tensor | None = None
        self.length_tokens = 0
        """Tokens appended, dropped ones included."""
        self._limit_tokens = limit_tokens
        self._begin = 0
        self._end = 0

    def append(self, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Append new tokens, (heads, tokens, head size).

        Returns keys and values, as views, of all tokens that one of the new ones attends to.
        """
        new_tokens = keys.shape[1]
        own_keys, own_values = self._with_room_for(keys, values)
        end = self._end + new_tokens
        own_keys[:, self._end : end] = keys
        own_values[:, self._end : end] = values
        first = self._begin
        if self.window_tokens is not None:
            self._begin = max(first, end - self.window_tokens + 1)
        self._end = end
        self.length_tokens += new_tokens
        return own_keys[:, first:end], own_values[:, first:end]

    def clear(self) -> None:
        """Drop everything and free the memory."""
        self.keys = self.values = None
        self._begin = self._end = self.length_tokens = 0

    def poison(self) -> None:
        """Overwrite with NaN what lies outside the tokens held, for tests."""
        if self.keys is not None and self.values is not None:
            for buffer in (self.keys, self.values):
                buffer[:, : self._begin] = torch.nan
                buffer[:, self._end :] = torch.nan

    @property
    def live_bytes(self) -> int:
        """Bytes of the tokens held."""
        if self.keys is None or self.values is None:
            return 0
        held = slice(self._begin, self._end)
        return self.keys[:, held].nbytes + self.values[:, held].nbytes

    @property
    def reserved_bytes(self) -> int:
        """Bytes of the whole buffers."""
        if self.keys is None or self.values is None:
            return 0
        return self.keys.nbytes + self.values.nbytes

    def _with_room_for(
        self, keys: torch.Tensor, values: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the buffers, replaced by larger ones if the new tokens do not fit."""
        if (
            self.keys is not None
            and self.values is not None
            and self._end + keys.shape[1] <= self.keys.shape[1]
        ):
            return self.keys, self.values
        held = slice(self._begin, self._end)
        needed = self._end - self._begin + keys.shape[1]
        spare = max(needed // 2, _FIRST_TOKENS)
        if self.window_tokens is not None:
            spare = min(spare, self.window_tokens)
        capacity = max(needed, min(needed + spare, self._limit_tokens))
        self.keys = _grown(self.keys, held, keys, capacity)
        self.values = _grown(self.values, held, values, capacity)
        self._begin, self._end = 0, held.stop - held.start
        return self.keys, self.values


def _grown(
    old: torch.Tensor | None, held: slice, like: torch.Tensor, capacity: int
) -> torch.Tensor:
    """Allocate a buffer of `capacity` tokens and copy what `old` held."""
    grown = like.new_empty(like.shape[0], capacity, like.shape[2])
    if old is not None:
        grown[:, : held.stop - held.start] = old[:, held]
    return grown


class StateRows:
    """A state of constant size of one layer: a tensor whose rows are sequences."""

    def __init__(self, like: torch.Tensor, rows: int) -> None:
        self.tensor = like.new_zeros(rows, *like.shape[1:])

    def clear(self, row: int) -> None:
        """Reset a row to the state before the first token."""
        self.tensor[row].zero_()

    def move(self, source: int, target: int) -> None:
        """Copy a row over a free one."""
        self.tensor[target].copy_(self.tensor[source])

    def swap(self, row: int, other: int) -> None:
        """Exchange two rows."""
        self.tensor[[row, other]] = self.tensor[[other, row]]

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return self.tensor[0].nbytes
