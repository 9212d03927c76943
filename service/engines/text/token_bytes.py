"""TokenBytes: the UTF-8 bytes that each token of a vocabulary stands for."""

import json
import re
from typing import Any, Final

from tokenizers import Tokenizer

from service.core.errors import ModelNotReady


class TokenBytes:
    """Bytes of each token, read off the tokenizer's own decoder.

    Supports byte-level BPE and SentencePiece with byte fallback. Their decoders map each token by
    itself, so a text is the concatenation of its tokens' bytes. Raises ModelNotReady for others.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._known: dict[int, bytes] = {}
        self.byte_level = False
        self._byte_fallback = False
        self._replacements: list[tuple[str, str]] = []
        self.strips_leading_space = False
        decoder = tokenizer.decoder
        self._read(json.loads(decoder.__getstate__()) if decoder is not None else {})

    def __getitem__(self, token_id: int) -> bytes:
        known = self._known.get(token_id)
        if known is None:
            known = self._known[token_id] = self.spell(self._tokenizer.id_to_token(token_id))
        return known

    def _read(self, decoder: dict[str, Any]) -> None:
        match decoder:
            case {"type": "Sequence", "decoders": list(parts)}:
                for part in parts:
                    self._read(part)
            case {"type": "ByteLevel"}:
                self.byte_level = True
            case {"type": "ByteFallback"}:
                self._byte_fallback = True
            case {"type": "Fuse"}:
                pass
            case {"type": "Replace", "pattern": {"String": str(old)}, "content": str(new)}:
                self._replacements.append((old, new))
            case {"type": "Metaspace", "replacement": str(space)}:
                self._replacements.append((space, " "))
                self.strips_leading_space = decoder.get("prepend_scheme", "always") != "never"
            case {"type": "Strip", "content": " ", "start": 1, "stop": 0}:
                self.strips_leading_space = True
            case _:
                raise ModelNotReady(
                    f"the tokenizer's decoder {decoder.get('type')!r} is not supported: "
                    "byte-level BPE and SentencePiece with byte fallback are"
                )

    def spell(self, token: str | None) -> bytes:
        """Bytes of a token given by its text in the vocabulary."""
        if token is None:  # a row of the embedding that pads the vocabulary
            return b""
        if self.byte_level:
            try:
                return bytes(map(BYTE_OF_CHARACTER.__getitem__, token))
            except KeyError:
                return token.encode()
        if self._byte_fallback and (match := _BYTE_TOKEN.fullmatch(token)):
            return bytes((int(match[1], 16),))
        for old, new in self._replacements:
            token = token.replace(old, new)
        return token.encode()


_BYTE_TOKEN: Final = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def _byte_characters() -> dict[str, int]:
    """GPT-2's byte alphabet: printable bytes stand for themselves, the others follow U+0100."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {
        chr(0x100 + index): byte for index, byte in enumerate(others)
    }


BYTE_OF_CHARACTER: Final = _byte_characters()
