"""The index of the prefix cache: what is found, what is stored, what goes."""

import random
from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from service.torch_host.prefix.cache import Kind, PrefixCache
from service.torch_host.prefix.entries import ENTRY_BYTES, Snapshot
from service.torch_host.prefix.hashing import BLOCK_TOKENS, Chain, root_key

ROOT = root_key(["model", "salt"])
ROOMY = 10**7
BLOCK = 1000
STATE = 3000


class Bench:
    """A cache whose payloads are the tokens whose state they stand for."""

    def __init__(self, *, by_snapshot: bool, max_bytes: int = ROOMY, model_id: str = "model"):
        self.now_s = 1000.0
        self.cache = PrefixCache(clock_s=lambda: self.now_s)
        self.cache.limit(max_bytes)
        self.kind = Kind(model_id, BLOCK, by_snapshot, 1e6)

    def store(self, tokens, *, root=ROOT, kind=None):
        """Store a sequence; the state at its end where the model needs snapshots."""
        kind, tokens = kind or self.kind, list(tokens)

        def block(index):
            return tuple(tokens[index * BLOCK_TOKENS : (index + 1) * BLOCK_TOKENS])

        if kind.by_snapshot:
            return self.cache.store_snapshot(
                Chain(root), tokens, kind, block, lambda: tuple(tokens), STATE
            )
        return self.cache.store_blocks(Chain(root), tokens, kind, block)

    def find(self, tokens, *, root=ROOT, most_tokens=None):
        tokens = list(tokens)
        most = len(tokens) - 1 if most_tokens is None else most_tokens
        return self.cache.find(Chain(root), tokens, most_tokens=most)


def tokens(count, seed=0):
    return random.Random(seed).choices(range(50_000), k=count)


def test_blocks_are_found_up_to_the_last_whole_one():
    """A model that needs no snapshot continues at any multiple of 64 below the prompt's length."""
    bench = Bench(by_snapshot=False)
    known = tokens(200)
    bench.store(known)

    match = bench.find([*known, 1, 2, 3])
    same = bench.find(known[:192])

    assert (match.tokens, match.snapshot) == (192, None)
    assert [token for block in match.blocks for token in block] == known[:192]
    assert (same.tokens, same.matched_tokens) == (128, 192)


def test_a_snapshot_is_found_at_its_exact_length():
    """The longest snapshot that the prompt leads to, with the blocks before it."""
    bench = Bench(by_snapshot=True)
    known = tokens(200)
    bench.store(known[:70])
    bench.store(known[:150])

    longest, shorter = bench.find([*known[:150], 7]), bench.find([*known[:100], 7])

    assert (longest.tokens, longest.snapshot) == (150, tuple(known[:150]))
    assert len(longest.blocks) == 2
    assert (shorter.tokens, shorter.matched_tokens) == (70, 100)


def test_the_whole_prompt_is_never_restored():
    """The last token is computed: its logits choose the first token of the answer."""
    bench = Bench(by_snapshot=True)
    known = tokens(90)
    bench.store(known)

    assert bench.find(known).tokens == 0
    assert bench.find(known, most_tokens=90).tokens == 90


def test_the_junction_of_two_prompts_is_matched_to_the_token():
    """Where a new prompt leaves a known one is known exactly, though no snapshot is there."""
    bench = Bench(by_snapshot=True)
    known = tokens(300)
    bench.store(known)

    match = bench.find([*known[:177], 50_001, *known[178:]])

    assert (match.matched_tokens, match.tokens) == (177, 0)


def test_another_root_finds_nothing():
    """Salt, model and format are in the root: a stranger gets nothing and learns nothing."""
    bench = Bench(by_snapshot=False)
    known = tokens(200)
    bench.store(known)

    match = bench.find([*known, 1], root=root_key(["model", "another salt"]))

    assert (match.matched_tokens, match.tokens, match.evicted) == (0, 0, False)


def test_parts_of_a_root_are_not_joined():
    """Parts whose texts join to the same string have different keys."""
    assert root_key(["ab", "c"]) != root_key(["a", "bc"])
    assert root_key(["a", None]) != root_key(["a", ""])


def test_a_collision_restores_nothing(monkeypatch):
    """Tokens are compared where the hashes are equal."""
    bench = Bench(by_snapshot=False)
    monkeypatch.setattr(Chain, "keys", lambda *given: [b"the same"] * given[2])
    bench.store(tokens(64, seed=1))

    match = bench.find([*tokens(64, seed=2), 1])

    assert (match.tokens, match.matched_tokens) == (0, 0)
    assert bench.store(tokens(64, seed=2)) == 0


def test_snapshots_share_the_blocks_before_them():
    """A second snapshot of one conversation adds its state and the new blocks alone."""
    bench = Bench(by_snapshot=True)
    known = tokens(640)
    first = bench.store(known[:576])
    second = bench.store(known[:640])

    assert first == 9 * (BLOCK + ENTRY_BYTES) + STATE + ENTRY_BYTES
    assert second == BLOCK + STATE + 2 * ENTRY_BYTES
    assert bench.cache.held_bytes == first + second


def test_the_least_valuable_goes_first():
    """What was hit stays, and a prefix that nobody asked for again goes, the oldest first."""
    bench = Bench(by_snapshot=False, max_bytes=3 * (BLOCK + ENTRY_BYTES))
    known = [tokens(64, seed) for seed in range(4)]
    for each in known[:3]:
        bench.store(each)
        bench.now_s += 1
    bench.find([*known[0], 1])
    bench.store(known[3])

    found = [bench.find([*each, 1]) for each in known]
    assert [match.tokens for match in found] == [64, 0, 64, 64]
    assert [match.evicted for match in found] == [False, True, False, False]
    assert bench.cache.evictions == Counter(room=1)


def test_children_go_before_their_parents():
    """A block without the blocks before it could not be restored."""
    bench = Bench(by_snapshot=False, max_bytes=4 * (BLOCK + ENTRY_BYTES))
    known = tokens(256)
    bench.store(known)
    bench.store(tokens(64, seed=9))

    match = bench.find([*known, 1])

    assert (match.tokens, match.evicted) == (192, True)


def test_a_snapshot_takes_its_own_blocks_with_it():
    """Blocks that no snapshot needs any more are dropped, shared ones stay."""
    bench = Bench(by_snapshot=True)
    known = tokens(256)
    shared = bench.store(known[:128])
    bench.now_s += 1000
    bench.store([*known[:128], *tokens(128, seed=3)])
    bench.find([*known[:128], 1])
    bench.cache.limit(shared)

    assert bench.cache.held_bytes == shared
    assert bench.find([*known[:128], 1]).tokens == 128


def test_a_state_larger_than_the_cap_is_not_stored():
    """Nothing is evicted for what does not fit anyway."""
    bench = Bench(by_snapshot=True, max_bytes=STATE + 4 * ENTRY_BYTES)
    bench.store(tokens(30))
    held = bench.cache.held_bytes

    assert bench.store(tokens(640, seed=2)) == 0
    assert bench.cache.held_bytes == held > 0


def test_the_sequence_that_is_stored_is_not_evicted_for_itself():
    """With room for three blocks of four the first three are kept."""
    bench = Bench(by_snapshot=False, max_bytes=3 * (BLOCK + ENTRY_BYTES))
    known = tokens(256)
    bench.store(known)

    assert bench.find([*known, 1]).tokens == 192


def test_a_failed_copy_leaves_nothing_behind():
    """An error of a copy, as of memory, leaves the bytes as they were and no block pinned."""
    bench = Bench(by_snapshot=True)

    def fail():
        raise MemoryError

    with pytest.raises(MemoryError):
        bench.cache.store_snapshot(
            Chain(ROOT), tokens(200), bench.kind, lambda index: index, fail, STATE
        )

    assert (bench.cache.held_bytes, bench.cache.entries) == (0, 0)
    assert not bench.cache._roots
    assert not bench.cache._pinned


def test_a_model_that_goes_takes_its_states_with_it():
    """Others' states stay."""
    bench = Bench(by_snapshot=False)
    other = bench.kind._replace(model_id="other")
    bench.store(tokens(128))
    kept = bench.store(tokens(128), root=root_key(["other"]), kind=other)

    bench.cache.drop_model("model")

    assert bench.cache.held_bytes == bench.cache.held_by("other") == kept
    assert bench.find([*tokens(128), 1]).tokens == 0


def test_places_of_entries_that_are_hit_do_not_pile_up():
    """The queue of evictions grows with the entries, not with their hits."""
    bench = Bench(by_snapshot=False)
    bench.store(tokens(64))
    for _ in range(5000):
        bench.find([*tokens(64), 1])

    assert len(bench.cache._queue._places) < 1000


class Machine(RuleBasedStateMachine):
    """Sequences of a few words, which share prefixes, stored, found and evicted at random."""

    def __init__(self):
        super().__init__()
        self.benches = Bench(by_snapshot=False, max_bytes=60_000)
        self.kinds = {
            root_key([name]): self.benches.kind._replace(model_id=name, by_snapshot=by_snapshot)
            for name, by_snapshot in (("full", False), ("hybrid", True), ("hybrid-2", True))
        }

    roots = st.sampled_from([root_key([name]) for name in ("full", "hybrid", "hybrid-2")])
    words = st.lists(st.sampled_from([40, 64, 90]), min_size=1, max_size=5)

    def sequence(self, words):
        """Equal beginnings of the list of words are equal beginnings of the tokens."""
        return [token for word in words for token in tokens(word, seed=word)]

    @rule(root=roots, words=words)
    def store(self, root, words):
        self.benches.store(self.sequence(words), root=root, kind=self.kinds[root])

    @rule(root=roots, words=words, most=st.integers(0, 400))
    def find(self, root, words, most):
        wanted = self.sequence(words)
        match = self.benches.find(wanted, root=root, most_tokens=min(most, len(wanted)))
        restored = [token for block in match.blocks for token in block]
        assert restored == wanted[: len(restored)]
        assert match.tokens <= min(most, len(wanted))
        assert match.tokens <= match.matched_tokens <= len(wanted)
        if self.kinds[root].by_snapshot and match.tokens:
            assert list(match.snapshot) == wanted[: match.tokens]
        assert len(restored) == match.tokens // BLOCK_TOKENS * BLOCK_TOKENS

    @rule(max_bytes=st.integers(0, 80_000))
    def limit(self, max_bytes):
        self.benches.cache.limit(max_bytes)

    @rule(seconds=st.floats(0, 5000))
    def wait(self, seconds):
        self.benches.now_s += seconds

    @rule(name=st.sampled_from(["full", "hybrid"]))
    def unload(self, name):
        self.benches.cache.drop_model(name)
        assert self.benches.cache.held_by(name) == 0

    @invariant()
    def bytes_are_those_of_the_entries(self):
        cache, found = self.benches.cache, []
        below = list(cache._roots.values())
        for block in below:
            below += block.children.values()
            found += [*block.children.values(), *block.snapshots.values()]
            assert not block.is_leaf or not block.by_snapshot
        assert sum(entry.nbytes for entry in found) == cache.held_bytes <= cache.max_bytes
        assert len(found) == cache.entries
        assert sum(cache._by_model.values()) == cache.held_bytes
        assert not any(root.is_leaf for root in cache._roots.values())
        queued = {entry for _, number, entry in cache._queue._places if entry.version == number}
        for entry in found:
            if isinstance(entry, Snapshot) or (entry.is_leaf and not entry.by_snapshot):
                assert entry in queued


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
