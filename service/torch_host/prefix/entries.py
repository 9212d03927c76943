"""Entries of the prefix cache: blocks of keys and values in a tree, and snapshots behind them."""

from typing import Any, Final

from service.torch_host.prefix.hashing import BLOCK_TOKENS

ENTRY_BYTES: Final = 1024
"""Bytes that the index itself takes for an entry, approximately: they count, too."""


class Entry:
    """What is evicted as a whole."""

    __slots__ = ("nbytes", "parent", "payload", "saved_ns", "version", "weight")

    def __init__(self, parent: "Block | None", payload: Any, payload_bytes: int) -> None:  # noqa: ANN401
        self.parent = parent
        """The block before it; of a root None, and of an evicted entry too."""
        self.payload = payload
        self.nbytes = ENTRY_BYTES + payload_bytes
        self.saved_ns = 0.0
        """Prefill time of its own tokens."""
        self.weight = 0.0
        """Decayed hits, by `value.hit`."""
        self.version = 0
        """Latest of its places in the queue of evictions."""

    @property
    def name(self) -> tuple[bytes, bytes]:
        """Key of its block, and the tokens behind that."""
        raise NotImplementedError

    @property
    def tokens(self) -> int:
        """Tokens of a sequence up to its end."""
        raise NotImplementedError

    def path(self) -> list["Block"]:
        """The blocks that it needs, in order, its own included, without the root."""
        block = self if isinstance(self, Block) else self.parent
        found = []
        while block is not None and block.parent is not None:
            found.append(block)
            block = block.parent
        return found[::-1]


class Block(Entry):
    """64 tokens behind the parent's, with their keys and values; a root has no tokens."""

    __slots__ = ("blocks", "by_snapshot", "children", "ids", "key", "model_id", "snapshots")

    def __init__(
        self,
        parent: "Block | None",
        key: bytes,
        ids: bytes,
        *,
        model_id: str,
        by_snapshot: bool,
        payload: Any = None,  # noqa: ANN401
        payload_bytes: int = 0,
    ) -> None:
        super().__init__(parent, payload, payload_bytes)
        self.key = key
        self.ids = ids
        """Its tokens, packed: compared on a hit, so that a collision of hashes restores nothing."""
        self.model_id = model_id
        self.by_snapshot = by_snapshot
        """Whether a sequence of the model continues at snapshots alone."""
        self.blocks: int = 0 if parent is None else parent.blocks + 1
        self.children: dict[bytes, Block] = {}
        self.snapshots: dict[bytes, Snapshot] = {}

    @property
    def tokens(self) -> int:
        """Tokens up to its end."""
        return self.blocks * BLOCK_TOKENS

    @property
    def name(self) -> tuple[bytes, bytes]:
        """Its key."""
        return self.key, b""

    @property
    def is_leaf(self) -> bool:
        """True if nothing is behind it."""
        return not self.children and not self.snapshots


class Snapshot(Entry):
    """State at a point: recurrent states, windows, and the keys of its last partial block."""

    __slots__ = ("block", "tail")

    def __init__(
        self,
        block: Block,
        tail: bytes,
        payload: Any,  # noqa: ANN401
        payload_bytes: int,
    ) -> None:
        super().__init__(block, payload, payload_bytes)
        self.block = block
        self.tail = tail
        """Tokens behind the block, packed; fewer than a block."""

    @property
    def name(self) -> tuple[bytes, bytes]:
        """Key of its block, and its tokens behind that."""
        return self.block.key, self.tail

    @property
    def tokens(self) -> int:
        """Tokens that it holds the state of."""
        return self.block.tokens + len(self.tail) // 4
