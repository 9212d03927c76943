"""Windows of a text for several models: the same bytes for all, each byte scored once. Pure."""

from bisect import bisect_left
from collections.abc import Sequence
from typing import Final

from msgspec import Struct

from service.core.errors import InvalidRequest
from service.core.ports import TextTokens

MOST_WINDOW_TOKENS: Final = 32_768
"""Longest window of any model: the scores of a window are kept until it is done."""


class Window(Struct, frozen=True, kw_only=True):
    """Part of a text to score, with text before it as context. Bytes of the UTF-8 text."""

    context: int
    """Where the context begins; equal to `begin` in the first window."""
    begin: int
    end: int


class WindowTokens(Struct, frozen=True, kw_only=True):
    """A window as one model's tokens."""

    token_ids: tuple[int, ...]
    """Start token, context and scored tokens."""
    scored: int
    """How many of them, at the end, are scored."""


def windows(
    tokenized: Sequence[TextTokens], size_bytes: int, *, most_tokens: int | None = None
) -> tuple[Window, ...]:
    """Cut a text so that every window fits every model.

    A window after the first begins with context: as many bytes as half of each model's window
    holds. A token belongs to the window that its first byte is in.

    Args:
        tokenized: The text by each model.
        size_bytes: Of the text.
        most_tokens: Longest window in any model's tokens, the start token included; None: as long
            as the contexts allow.
    """
    models = [(each.begins_bytes, longest(each, most_tokens) - 1) for each in tokenized]
    found: list[Window] = []
    begin = 0
    while begin < size_bytes:
        context = max(_back(begins, begin, room // 2) for begins, room in models) if begin else 0
        end = min(_reach(begins, context, room, size_bytes) for begins, room in models)
        if end <= begin:
            raise InvalidRequest(
                "windows are too short for this text: a character has more tokens than one holds",
                param="window_tokens",
            )
        found.append(Window(context=context, begin=begin, end=end))
        begin = end
    return tuple(found)


def longest(tokens: TextTokens, most_tokens: int | None) -> int:
    """Longest window of a model in tokens, the start token included."""
    return min(tokens.context_tokens, most_tokens or MOST_WINDOW_TOKENS, MOST_WINDOW_TOKENS)


def tokens_of(tokens: TextTokens, window: Window, size_bytes: int) -> WindowTokens:
    """Tokens of a window by one model; it has a start token."""
    assert tokens.start_id is not None
    begins, ids = tokens.begins_bytes, tokens.token_ids
    context = bisect_left(begins, window.context)
    begin = bisect_left(begins, window.begin)
    end = len(ids) if window.end >= size_bytes else bisect_left(begins, window.end)
    return WindowTokens(token_ids=(tokens.start_id, *ids[context:end]), scored=end - begin)


def _back(begins: Sequence[int], begin: int, tokens: int) -> int:
    """Byte that lies so many tokens before *begin*."""
    index = bisect_left(begins, begin)
    return min(begin, begins[max(0, index - tokens)]) if index else 0


def _reach(begins: Sequence[int], context: int, room: int, size_bytes: int) -> int:
    """Byte up to which tokens from *context* on fit."""
    past = bisect_left(begins, context) + room
    return begins[past] if past < len(begins) else size_bytes
