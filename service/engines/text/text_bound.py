"""TextBound: a lower bound of a text's tokens, known without tokenizing it."""

from msgspec import Struct

from service.core.errors import ContextOverflow


class TextBound(Struct, frozen=True):
    """Most bytes of text that one token can stand for."""

    token_bytes: int
    ignores_space: bool = False
    """Whether special tokens take any amount of white space beside them."""

    def least_tokens(self, text: str) -> int:
        """Fewest tokens that a text can have."""
        if self.ignores_space:
            text = "".join(text.split())
        size_bytes = len(text) if text.isascii() else len(text.encode("utf-8", "ignore"))
        return -(-size_bytes // self.token_bytes)

    def check(self, text: str, *, context_tokens: int) -> None:
        """Raise ContextOverflow for a text that cannot fit the context."""
        least = self.least_tokens(text)
        if least > context_tokens:
            raise ContextOverflow.of(
                context_tokens=context_tokens, prompt_tokens=least, at_least=True
            )
