"""The TextBound of a tokenizer, read off its normalizer, pre-tokenizer and vocabulary."""

import json
from collections.abc import Callable, Iterable
from typing import Any, Final

from tokenizers import Tokenizer, models

from service.engines.text.text_bound import TextBound
from service.engines.text.token_bytes import BYTE_OF_CHARACTER

_SHRINKING: Final = {"NFC": 4, "NFD": 1, "NFKC": 12, "NFKD": 4, "Lowercase": 3}
"""How many times longer than its result a text can be, in UTF-8 bytes.

Canonical composition joins at most four characters of two bytes into one of three (Unicode Standard
Annex 15); compatibility forms and lower case replace up to four bytes by one.
"""

_KEEPING: Final = frozenset({"ByteLevel", "Metaspace", "Digits", "UnicodeScripts", "Prepend"})
"""Normalizers and pre-tokenizers that drop no character."""


def read_bound(
    tokenizer: Tokenizer, spell: Callable[[str], bytes], *, byte_level: bool
) -> TextBound | None:
    """Bound of a tokenizer; None if it may drop text or stand for any amount of it by one token.

    Args:
        tokenizer: With all added tokens.
        spell: Bytes of a token of the vocabulary, or of what a normalizer writes.
        byte_level: True if its tokens use GPT-2's byte alphabet, false if they are plain text.
    """
    parts = (_state(tokenizer.normalizer), _state(tokenizer.pre_tokenizer))
    factor = _product(_factor(part, spell) for part in parts)
    if factor is None or not _covers_all_bytes(tokenizer, parts, byte_level=byte_level):
        return None
    longest = max(len(spell(token)) for token in tokenizer.get_vocab())
    added = tokenizer.get_added_tokens_decoder().values()
    longest = max([longest, *(len(token.content.encode()) for token in added)])
    return TextBound(longest * factor, ignores_space=any(t.lstrip or t.rstrip for t in added))


def _state(part: Any) -> dict[str, Any]:  # noqa: ANN401 - a normalizer or pre-tokenizer
    state: dict[str, Any] = json.loads(part.__getstate__()) if part is not None else {}
    return state


def _factor(part: dict[str, Any], spell: Callable[[str], bytes]) -> int | None:
    """Largest ratio of a text's length to this component's output; None if unbounded."""
    match part:
        case {"type": "Sequence"}:
            return _product(
                _factor(each, spell)
                for each in part.get("normalizers") or part.get("pretokenizers") or ()
            )
        case {"type": "Replace", "pattern": {"String": str(old)}, "content": str(new)} if new:
            return -(-len(old.encode()) // max(1, len(spell(new))))
        case {"type": "Split" | "Punctuation", "behavior": str(behavior)}:
            return None if behavior == "Removed" else 1
        case {"type": str(kind)} if kind in _KEEPING:
            return 1
        case {"type": str(kind)}:
            return _SHRINKING.get(kind)
        case _:
            return 1


def _product(factors: Iterable[int | None]) -> int | None:
    product = 1
    for factor in factors:
        if factor is None:
            return None
        product *= factor
    return product


def _covers_all_bytes(
    tokenizer: Tokenizer, parts: tuple[dict[str, Any], ...], *, byte_level: bool
) -> bool:
    """True if no text yields an unknown token, which could stand for text of any length."""
    if byte_level:
        if not any('"ByteLevel"' in json.dumps(part) for part in parts):
            return False
        return all(tokenizer.token_to_id(character) is not None for character in BYTE_OF_CHARACTER)
    falls_back = (
        tokenizer.model.byte_fallback
        if isinstance(tokenizer.model, models.BPE)
        else '"byte_fallback":true' in tokenizer.to_str()
    )
    return falls_back and all(
        tokenizer.token_to_id(f"<0x{byte:02X}>") is not None for byte in range(256)
    )
