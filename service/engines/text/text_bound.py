"""TextBound: a lower bound of a text's tokens, known without tokenizing it."""

from typing import Final

from msgspec import Struct

from service.core.errors import ContextOverflow

_SPACES: Final = tuple(char for char in map(chr, range(0x3001)) if char.isspace())
"""All white space of Unicode."""


class TextBound(Struct, frozen=True):
    """Most bytes of text that one token can stand for."""

    token_bytes: int
    ignores_space: bool = False
    """Whether special tokens take any amount of white space beside them."""

    def least_tokens(self, text: str) -> int:
        """Fewest tokens that a text can have."""
        size_bytes = _utf8_bytes(text)
        if self.ignores_space:
            size_bytes -= _space_bytes(text)
        return -(-size_bytes // self.token_bytes)

    def check(self, text: str, *, context_tokens: int) -> None:
        """Raise ContextOverflow for a text that cannot fit the context."""
        if _utf8_bytes(text) <= context_tokens * self.token_bytes:
            return
        least = self.least_tokens(text)
        if least > context_tokens:
            raise ContextOverflow.of(
                context_tokens=context_tokens, prompt_tokens=least, at_least=True
            )


def _utf8_bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "ignore"))


def _space_bytes(text: str) -> int:
    among = [char for char in _SPACES if char.isascii()] if text.isascii() else _SPACES
    return sum(text.count(char) * len(char.encode()) for char in among)
