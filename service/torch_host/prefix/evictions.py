"""EvictionQueue: entries in the order in which they go, and the names of those that went."""

import heapq
import itertools
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from service.torch_host.prefix import value
from service.torch_host.prefix.entries import Block, Entry, Snapshot
from service.torch_host.prefix.tree import unshared_bytes

GHOSTS: Final = 4096
"""Evicted entries that are remembered, to tell an eviction from a prefix that never was here."""

SPARE: Final = 256
"""Outdated places that are kept before the queue is made anew."""


class EvictionQueue:
    """Snapshots and blocks without followers, lowest value first.

    An entry that was hit gets a new place and its old one is skipped. What a snapshot's eviction
    would free changes with its neighbours and is read when its turn comes.
    """

    def __init__(self) -> None:
        self._places: list[tuple[float, int, Entry]] = []
        self._numbers = itertools.count(1)

    def push(self, entry: Entry) -> None:
        """Give an entry its place, if it can be evicted."""
        if not _evictable(entry):
            return
        entry.version = next(self._numbers)
        heapq.heappush(self._places, (_priority(entry), entry.version, entry))

    def pop(self, *, keep: Callable[[Entry], bool]) -> Entry | None:
        """Take the entry of the lowest value that is not to be kept; None if there is none."""
        kept, found = [], None
        while self._places and found is None:
            priority, number, entry = heapq.heappop(self._places)
            if entry.version != number or not _evictable(entry):
                continue
            if keep(entry):
                kept.append(entry)
            elif _priority(entry) > priority + 1e-9:
                self.push(entry)
            else:
                found = entry
        for entry in kept:
            self.push(entry)
        return found

    def compact(self, entries: int) -> None:
        """Drop outdated places if most are, given the number of entries that there are."""
        if len(self._places) > 2 * entries + SPARE:
            self._places = [place for place in self._places if _current(place)]
            heapq.heapify(self._places)


class Ghosts:
    """The latest evicted entries, by the key of their block and the tokens behind it."""

    def __init__(self) -> None:
        self._tails: OrderedDict[bytes, bytes] = OrderedDict()

    def add(self, entry: Entry) -> None:
        """Remember an entry that is being evicted."""
        key, tail = entry.name
        self._tails[key] = tail
        self._tails.move_to_end(key)
        if len(self._tails) > GHOSTS:
            self._tails.popitem(last=False)

    def discard(self, entry: Entry) -> None:
        """Forget an entry that is here again."""
        self._tails.pop(entry.name[0], None)

    def led_on(self, key: bytes, following: bytes, *, more_than: int) -> bool:
        """True if an entry of this block is gone whose tokens follow, more bytes of them."""
        tail = self._tails.get(key)
        return tail is not None and len(tail) > more_than and following.startswith(tail)

    def __len__(self) -> int:
        return len(self._tails)


def _current(place: tuple[float, int, Entry]) -> bool:
    _, number, entry = place
    return entry.version == number and _evictable(entry)


def _evictable(entry: Entry) -> bool:
    """True for a snapshot, and for a block with nothing behind it that is no snapshot's."""
    if entry.parent is None:
        return False
    return not isinstance(entry, Block) or (entry.is_leaf and not entry.by_snapshot)


def _priority(entry: Entry) -> float:
    freed = entry.nbytes
    if isinstance(entry, Snapshot):
        freed += unshared_bytes(entry.block)
    return value.priority(saved_ns=entry.saved_ns, weight=entry.weight, unshared_bytes=freed)
