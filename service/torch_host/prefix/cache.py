"""PrefixCache: finds, stores and evicts states by the tokens that led to them; knows no torch."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from service.torch_host.prefix import value
from service.torch_host.prefix.entries import ENTRY_BYTES, Block, Entry, Snapshot
from service.torch_host.prefix.evictions import EvictionQueue, Ghosts
from service.torch_host.prefix.hashing import BLOCK_TOKENS, Chain, packed
from service.torch_host.prefix.tree import common_tokens, deepest_block, longest_snapshot


class Match(NamedTuple):
    """What the cache knows of a prompt; payloads may be read also after their eviction."""

    matched_tokens: int
    """Leading tokens that an earlier sequence had."""
    tokens: int
    """Tokens that can be restored: whole blocks, or up to the snapshot."""
    blocks: tuple[Any, ...]
    """Payloads of the blocks before that."""
    snapshot: Any
    """Payload of the snapshot; None where blocks are enough."""
    evicted: bool
    """Whether more than that was here once and has been evicted."""


class Kind(NamedTuple):
    """How a model's state is kept."""

    model_id: str
    block_bytes: int
    """Bytes of the keys and values of a block; 0 for a model without them."""
    by_snapshot: bool
    """Whether its sequences continue at snapshots alone."""
    token_ns: float
    """Prefill time of a token, as measured."""


class PrefixCache:
    """States of all models of a host, under one cap in bytes. Not thread-safe.

    Blocks form a tree for each root key, and a block stays while others need it: a model without
    recurrent states and windows continues at any block, others at snapshots, each of which needs
    the blocks before it. Payloads are immutable, so that snapshots share blocks.
    """

    def __init__(self, *, clock_s: Callable[[], float] = time.monotonic) -> None:
        self.max_bytes = 0
        self.held_bytes = 0
        self.entries = 0
        self.stored_bytes = 0
        """Bytes of all entries that were ever stored."""
        self.stores: Counter[str] = Counter()
        """Entries stored, by what they are: `block` or `snapshot`."""
        self.evictions: Counter[str] = Counter()
        """Entries dropped, by reason: `room`, `limit` or `unload`."""
        self._clock_s = clock_s
        self._roots: dict[bytes, Block] = {}
        self._by_model: Counter[str] = Counter()
        self._queue = EvictionQueue()
        self._ghosts = Ghosts()
        self._pinned: set[Block] = set()
        """Blocks of the sequence that is being stored."""

    def __repr__(self) -> str:
        return f"<PrefixCache {self.entries} entries, {self.held_bytes} of {self.max_bytes} bytes>"

    def limit(self, max_bytes: int) -> None:
        """Set the cap; evict what exceeds it."""
        self.max_bytes = max_bytes
        self._make_room(0, "limit")

    def held_by(self, model_id: str) -> int:
        """Bytes that a model's entries hold."""
        return self._by_model[model_id]

    def find(self, chain: Chain, token_ids: Sequence[int], *, most_tokens: int) -> Match:
        """Find the longest state that at most *most_tokens* of a sequence lead to."""
        ids, root = packed(token_ids), self._roots.get(chain.root)
        block = None if root is None else deepest_block(root, chain, token_ids, ids)
        matched = 0 if block is None else block.tokens + common_tokens(block, ids)
        found: Entry | None = None
        if block is not None and block.by_snapshot:
            found = longest_snapshot(block, ids, most_tokens)
        elif block is not None:
            found = _shortened(block, most_tokens)
        tokens = 0 if found is None else found.tokens
        evicted = self._was_evicted(chain, token_ids, ids[: 4 * most_tokens], tokens)
        if found is None:
            return Match(matched, 0, (), None, evicted)
        path = found.path()
        snapshot = found if isinstance(found, Snapshot) else None
        self._hit(path if snapshot is None else [snapshot])
        payloads = tuple(each.payload for each in path)
        return Match(matched, tokens, payloads, snapshot and snapshot.payload, evicted)

    def store_blocks(
        self, chain: Chain, token_ids: Sequence[int], kind: Kind, copy: Callable[[int], Any]
    ) -> int:
        """Store the whole blocks of a sequence that are missing; return the bytes stored.

        `copy` makes the payload of a block from its index. Stops at the first without room.
        """
        stored_bytes = self.stored_bytes
        try:
            self._path(chain, token_ids, kind, copy)
        finally:
            self._unpin(chain)
        return self.stored_bytes - stored_bytes

    def store_snapshot(
        self,
        chain: Chain,
        token_ids: Sequence[int],
        kind: Kind,
        copy: Callable[[int], Any],
        snapshot: Callable[[], Any],
        snapshot_bytes: int,
    ) -> int:
        """Store the state after all of these tokens, and the blocks that it needs; bytes stored."""
        stored_bytes = self.stored_bytes
        try:
            self._store_snapshot(chain, token_ids, kind, copy, snapshot, snapshot_bytes)
        finally:
            self._unpin(chain)
        return self.stored_bytes - stored_bytes

    def drop_model(self, model_id: str) -> None:
        """Drop all that a model holds."""
        for key, root in list(self._roots.items()):
            if root.model_id == model_id:
                below = [root]
                for block in below:  # it grows
                    below += block.children.values()
                for block in reversed(below):
                    for entry in (*block.snapshots.values(), block):
                        if entry is not root:
                            self._forget(entry)
                            self.evictions["unload"] += 1
                del self._roots[key]
        self._by_model.pop(model_id, None)
        self._queue.compact(self.entries)

    # Storing

    def _store_snapshot(
        self,
        chain: Chain,
        token_ids: Sequence[int],
        kind: Kind,
        copy: Callable[[int], Any],
        snapshot: Callable[[], Any],
        snapshot_bytes: int,
    ) -> None:
        blocks = len(token_ids) // BLOCK_TOKENS
        needed = ENTRY_BYTES + snapshot_bytes + blocks * (ENTRY_BYTES + kind.block_bytes)
        if needed > self.max_bytes:
            return
        block = self._path(chain, token_ids, kind, copy)
        tail = packed(token_ids[blocks * BLOCK_TOKENS :])
        if block.blocks < blocks:
            return
        present = block.snapshots.get(tail)
        if present is not None:
            self._hit([present])
        elif self._make_room(ENTRY_BYTES + snapshot_bytes, "room"):
            below = longest_snapshot(block, packed(token_ids), len(token_ids) - 1)
            entry = Snapshot(block, tail, snapshot(), snapshot_bytes)
            entry.saved_ns = (entry.tokens - (below.tokens if below else 0)) * kind.token_ns
            block.snapshots[tail] = entry
            self._add(entry, kind.model_id, "snapshot")

    def _path(
        self, chain: Chain, token_ids: Sequence[int], kind: Kind, copy: Callable[[int], Any]
    ) -> Block:
        """Find or store the blocks of a sequence, pinned; the last one that found room."""
        block = self._roots.get(chain.root)
        if block is None:
            block = self._roots[chain.root] = Block(
                None, chain.root, b"", model_id=kind.model_id, by_snapshot=kind.by_snapshot
            )
        for index, key in enumerate(chain.keys(token_ids, len(token_ids) // BLOCK_TOKENS)):
            self._pinned.add(block)
            ids = packed(token_ids[index * BLOCK_TOKENS : (index + 1) * BLOCK_TOKENS])
            child = block.children.get(key)
            if child is not None and child.ids != ids:
                return block  # two prefixes of one hash: the first one stays
            if child is None:
                if not self._make_room(ENTRY_BYTES + kind.block_bytes, "room"):
                    return block
                child = Block(
                    block,
                    key,
                    ids,
                    model_id=kind.model_id,
                    by_snapshot=kind.by_snapshot,
                    payload=copy(index),
                    payload_bytes=kind.block_bytes,
                )
                child.saved_ns = BLOCK_TOKENS * kind.token_ns
                block.children[key] = child
                self._add(child, kind.model_id, "block")
            block = child
        self._pinned.add(block)
        return block

    def _add(self, entry: Entry, model_id: str, what: str) -> None:
        entry.weight = value.first_weight(self._clock_s())
        self.entries += 1
        self.held_bytes += entry.nbytes
        self.stored_bytes += entry.nbytes
        self._by_model[model_id] += entry.nbytes
        self.stores[what] += 1
        self._ghosts.discard(entry)
        self._queue.push(entry)

    def _hit(self, entries: Sequence[Entry]) -> None:
        now_s = self._clock_s()
        for entry in entries:
            entry.weight = value.hit(entry.weight, now_s)
            self._queue.push(entry)
        self._queue.compact(self.entries)

    def _unpin(self, chain: Chain) -> None:
        """Unpin, and drop the blocks of a snapshot that found no room after all."""
        pinned = sorted(self._pinned, key=lambda block: -block.blocks)
        self._pinned.clear()
        for block in pinned[:1]:
            self._drop_needless(block)
        root = self._roots.get(chain.root)
        if root is not None and root.is_leaf:
            del self._roots[chain.root]

    # Evicting

    def _make_room(self, needed_bytes: int, reason: str) -> bool:
        """Evict until so many bytes fit under the cap; False if they cannot."""
        while self.held_bytes + needed_bytes > self.max_bytes:
            entry = self._queue.pop(keep=lambda entry: entry in self._pinned)
            if entry is None:
                return False
            before = entry.block if isinstance(entry, Snapshot) else entry.parent
            self._ghosts.add(entry)
            self._forget(entry)
            self.evictions[reason] += 1
            assert before is not None
            self._drop_needless(before)
        return True

    def _drop_needless(self, block: Block) -> None:
        """Drop blocks that no snapshot needs any more, or let a block without followers be next."""
        while block.is_leaf and block not in self._pinned:
            above = block.parent
            if above is None:
                del self._roots[block.key]
                return
            if not block.by_snapshot:
                self._queue.push(block)
                return
            self._forget(block)
            block = above

    def _forget(self, entry: Entry) -> None:
        """Take an entry without followers out of the tree."""
        if isinstance(entry, Snapshot):
            model_id = entry.block.model_id
            del entry.block.snapshots[entry.tail]
        else:
            assert isinstance(entry, Block)
            assert entry.parent is not None
            model_id = entry.model_id
            del entry.parent.children[entry.key]
        self.entries -= 1
        self.held_bytes -= entry.nbytes
        self._by_model[model_id] -= entry.nbytes
        entry.parent = entry.payload = None

    def _was_evicted(
        self, chain: Chain, token_ids: Sequence[int], ids: bytes, restored_tokens: int
    ) -> bool:
        """True if a longer state of this sequence was here once, as far as is remembered."""
        if not self._ghosts:
            return False
        keys = [chain.root, *chain.keys(token_ids, len(ids) // (4 * BLOCK_TOKENS))]
        first = restored_tokens // BLOCK_TOKENS
        return any(
            self._ghosts.led_on(
                key,
                ids[4 * at * BLOCK_TOKENS : 4 * (at + 1) * BLOCK_TOKENS],
                more_than=4 * (restored_tokens - at * BLOCK_TOKENS),
            )
            for at, key in enumerate(keys[first:], start=first)
        )


def _shortened(block: Block, most_tokens: int) -> Block | None:
    """The last block on the way to this one that ends within so many tokens; None for a root."""
    while block.tokens > most_tokens and block.parent is not None:
        block = block.parent
    return block if block.parent is not None else None
