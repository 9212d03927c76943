"""Chain of hashes over blocks of token ids: equal keys stand for equal prefixes of equal models."""

import hashlib
from array import array
from collections.abc import Sequence
from typing import Final

import msgspec

BLOCK_TOKENS: Final = 64
"""Tokens of a block; compiled key-value buffers have capacities that are multiples of it."""


def root_key(parts: Sequence[str | None]) -> bytes:
    """Key of the empty prefix: of model, weights, format, kernels, code and salt.

    The parts are encoded as a list, not joined: no two lists have the same encoding.
    """
    return hashlib.sha256(msgspec.msgpack.encode(list(parts))).digest()


def packed(token_ids: Sequence[int]) -> bytes:
    """Token ids as bytes, four each, to be hashed and compared."""
    return array("I", token_ids).tobytes()


class Chain:
    """Keys of the blocks of one sequence, computed once as it grows.

    The key of a block is the SHA-256 of the key before it and of its token ids.
    """

    def __init__(self, root: bytes) -> None:
        self.root = root
        self._keys: list[bytes] = []

    def keys(self, token_ids: Sequence[int], blocks: int) -> list[bytes]:
        """Keys of the first *blocks* blocks; the sequence has only grown since the last call."""
        for index in range(len(self._keys), blocks):
            before = self._keys[-1] if self._keys else self.root
            ids = token_ids[index * BLOCK_TOKENS : (index + 1) * BLOCK_TOKENS]
            self._keys.append(hashlib.sha256(before + packed(ids)).digest())
        return self._keys[:blocks]
