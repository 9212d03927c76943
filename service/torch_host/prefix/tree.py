"""Questions about the tree of entries: the deepest block, the longest snapshot, common tokens."""

import itertools
from collections.abc import Sequence
from typing import Final

from service.torch_host.prefix.entries import Block, Snapshot
from service.torch_host.prefix.hashing import BLOCK_TOKENS, Chain

COMPARED: Final = 64
"""Latest followers of a block that are compared token by token to find a junction."""

_SIZE: Final = 4 * BLOCK_TOKENS
"""Bytes of a block's packed tokens."""


def deepest_block(root: Block, chain: Chain, token_ids: Sequence[int], ids: bytes) -> Block:
    """Find the last block that a sequence shares; its tokens are verified."""
    block = root
    for index in range(len(token_ids) // BLOCK_TOKENS):
        child = block.children.get(chain.keys(token_ids, index + 1)[-1])
        if child is None or child.ids != ids[index * _SIZE : (index + 1) * _SIZE]:
            break
        block = child
    return block


def longest_snapshot(block: Block, ids: bytes, most_tokens: int) -> Snapshot | None:
    """Find the longest snapshot on the way to a block, or right behind it, that fits a sequence."""
    here: Block | None = block
    while here is not None:
        rest = ids[4 * here.tokens : 4 * here.tokens + _SIZE]
        fitting = [
            snapshot
            for tail, snapshot in here.snapshots.items()
            if snapshot.tokens <= most_tokens and rest.startswith(tail)
        ]
        if fitting:
            return max(fitting, key=lambda snapshot: snapshot.tokens)
        here = here.parent
    return None


def common_tokens(block: Block, ids: bytes) -> int:
    """Count the tokens behind a block that a sequence shares with the latest followers."""
    rest = ids[4 * block.tokens : 4 * block.tokens + _SIZE]
    blocks = itertools.islice(reversed(block.children.values()), COMPARED)
    tails = itertools.islice(reversed(block.snapshots), COMPARED)
    followers = itertools.chain((child.ids for child in blocks), tails)
    return max((_common(rest, each) for each in followers), default=0)


def unshared_bytes(block: Block) -> int:
    """Bytes of the blocks up to this one that are there for one follower alone."""
    count = 0
    while block.parent is not None and len(block.children) + len(block.snapshots) <= 1:
        count += block.nbytes
        block = block.parent
    return count


def _common(one: bytes, other: bytes) -> int:
    """Number of equal leading tokens."""
    most = min(len(one), len(other)) // 4
    first, second = memoryview(one).cast("I"), memoryview(other).cast("I")
    return next((at for at in range(most) if first[at] != second[at]), most)
