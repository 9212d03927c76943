"""Requests that continue earlier ones, in the loop: equal to the bit, and what is told of them."""

import random
import time

import pytest
import torch

from service.core.chat import ChatRequest, Sampling, TokenPrompt
from service.core.events import Delta, Finished, Started
from service.engines.text.codec import TextCodec
from service.engines.torch.protocol.messages import Events, MemoryReport, RequestFailed
from service.torch_host.loop import EngineLoop
from service.torch_host.prefix import prefixes as module
from service.torch_host.prefix.hashing import BLOCK_TOKENS
from service.torch_host.sequence import Sequence
from support import tiny_models, tiny_text

CODEC = TextCodec(tiny_text.byte_level(), named={}, template=None, eos_ids=(2,))
NAMES = tuple(name for name in tiny_models.NAMES if "longrope" not in name)
ROOM = 2**26
PROMPT = random.Random(3).choices(range(3, 100), k=150)


class Bench:
    """A loop stepped by hand over one model."""

    def __init__(self, model, *, max_bytes=ROOM, chunk_tokens=32):
        self.frames = []
        self.model = model
        self.loop = EngineLoop(self.frames.append)
        self.loop.limit_prefix_cache(max_bytes)
        self.loop.add_model(model, chunk_tokens=chunk_tokens)
        self.cache = self.loop._prefixes.cache

    def submit(self, name, prompt, *, message_start=0, echo=False, **fields):
        sampling = {"max_tokens": 12, "ignore_eos": True, "temperature": 0.0, "logprobs": 3}
        of_request = {
            key: fields.pop(key) for key in ("cache_salt", "prefix_cache") if key in fields
        }
        request = ChatRequest(
            request_id=name,
            model=self.model.resolved.id,
            prompt=TokenPrompt(tuple(prompt)),
            sampling=Sampling(**(sampling | fields)),
            echo=echo,
            accepted_ns=0,
            accepted_at_ns=0,
            **of_request,
        )
        sequence = Sequence(
            request,
            CODEC,
            model_id=self.model.resolved.id,
            queued_ns=time.monotonic_ns(),
            context_tokens=self.model.context_tokens,
            vocabulary_tokens=self.model.vocabulary_tokens,
        )
        sequence.reuse.message_start = message_start
        self.loop.submit(sequence)

    def drain(self):
        with torch.inference_mode():
            while self.loop.step():
                pass

    def ask(self, name, prompt, **fields):
        """Answer one request alone; return what was told of its prefix."""
        self.submit(name, prompt, **fields)
        self.drain()
        return self.started(name)

    def events(self, name, kind):
        items = [item for frame in self.frames if isinstance(frame, Events) for item in frame.items]
        return [event for owner, event in items if owner == name and isinstance(event, kind)]

    def started(self, name):
        return self.events(name, Started)[0]

    def finished(self, name):
        return self.events(name, Finished)[0]

    def answer(self, name):
        """Tokens and exact log-probabilities, of the alternatives too."""
        return [logprob for delta in self.events(name, Delta) for logprob in delta.logprobs]

    def tokens(self, name):
        return [logprob.token_id for logprob in self.answer(name)]

    def close(self):
        for name in list(self.loop._sequences):
            self.loop.cancel(name)
        with torch.inference_mode():
            self.loop.step()


@pytest.fixture
def open_bench():
    opened = []

    def build(model, **options):
        opened.append(Bench(model, **options))
        return opened[-1]

    yield build
    for bench in opened:
        bench.close()


@pytest.mark.parametrize("name", NAMES)
def test_every_architecture_continues_to_the_bit(name, tiny_model, open_bench):
    """Second turn, same turn, a branch and a junction: logits as without a cache."""
    model = tiny_model(name, "float32", kernels="compiled")
    bench = open_bench(model)
    first = bench.ask("first", PROMPT, message_start=110, max_tokens=24)
    second = [*PROMPT, *bench.tokens("first"), *PROMPT[5:20]]
    prompts = {
        "second": second,
        "again": PROMPT,
        "branch": [*PROMPT[:110], *PROMPT[60:95]],
        "junction": [*PROMPT[:131], *PROMPT[:10]],
    }
    bench.submit("neighbour", PROMPT[40:90], max_tokens=40)
    for each, prompt in prompts.items():
        bench.ask(each, prompt)
        bench.ask(f"{each}, cold", prompt, prefix_cache=False)
        model.poison()

    assert first.cached_tokens == 0
    assert not [frame for frame in bench.frames if isinstance(frame, RequestFailed)]
    for each in prompts:
        assert bench.answer(each) == bench.answer(f"{each}, cold"), each
        assert bench.started(f"{each}, cold").cached_tokens == 0
        assert bench.started(f"{each}, cold").prefix.cache_miss == "bypassed"
    if model.copies.by_snapshot:
        # Behind the answer, whose last token was never computed; where its decoding leaves another
        # state than a prefill, behind the prompt.
        answered = 150 if model.copies.decode_differs else 150 + 24 - 1
        assert bench.started("second").cached_tokens == answered
        assert bench.started("second").prefix.restored_from == "snapshot"
        assert bench.started("again").cached_tokens == 110
        assert bench.started("branch").cached_tokens == 110
    else:
        assert bench.started("second").cached_tokens == 128
        assert bench.started("second").prefix.restored_from == "kv"
        assert bench.started("branch").cached_tokens == 64
        assert bench.started("junction").cached_tokens == 128


@pytest.mark.parametrize("name", ["mamba2", "falcon_h1", "gemma3_text"])
def test_the_third_prompt_hits_where_the_second_left_the_first(name, tiny_model, open_bench):
    """Prompts that share an instruction and no message find its end once it was left twice."""
    bench = open_bench(tiny_model(name))
    shared = PROMPT[:77]
    told = [
        bench.ask(str(number), [*shared, 100 + number, *PROMPT[number:30]]) for number in range(3)
    ]

    assert [each.cached_tokens for each in told] == [0, 0, 77]
    assert told[1].prefix.matched_tokens == 77
    assert told[1].prefix.cache_miss == "no snapshot there"


def test_what_is_told_of_a_hit(tiny_model, open_bench):
    """Tokens matched and restored, time of the copy, estimate of the time saved, bytes stored."""
    bench = open_bench(tiny_model("llama"))
    missed = bench.ask("first", PROMPT)
    hit = bench.ask("second", [*PROMPT, 5, 6])

    assert (missed.prefix.cache_miss, missed.prefix.matched_tokens) == ("no match", 0)
    assert (missed.prefix.restore_ns, missed.prefix.saved_prefill_ns) == (None, None)
    assert (hit.prefix.matched_tokens, hit.cached_tokens, hit.prefix.cache_miss) == (128, 128, None)
    assert hit.prefix.restore_ns > 0
    assert hit.prefix.saved_prefill_ns > 0
    assert bench.finished("first").state.snapshot_bytes == bench.cache.held_bytes > 0
    assert bench.finished("second").state.snapshot_bytes == 0


def test_another_salt_is_another_cache(tiny_model, open_bench):
    """A stranger finds nothing, whatever was asked before."""
    bench = open_bench(tiny_model("llama"))
    bench.ask("first", PROMPT, cache_salt="mine")
    stranger = bench.ask("stranger", PROMPT, cache_salt="another")
    nobody = bench.ask("nobody", PROMPT)
    owner = bench.ask("owner", PROMPT, cache_salt="mine")

    for each in (stranger, nobody):
        assert (each.cached_tokens, each.prefix.matched_tokens) == (0, 0)
    assert owner.cached_tokens == 128


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("llama", {"prefix_cache": False}, "bypassed"),
        ("llama", {"echo": True}, "prompt is scored"),
        ("phi3-longrope", {}, "rotary factors depend on length"),
    ],
)
def test_who_takes_no_part_says_why_and_leaves_nothing(
    name, options, reason, tiny_model, open_bench
):
    """Neither read nor written, and the record says why."""
    bench = open_bench(tiny_model(name))
    for each in ("first", "second"):
        told = bench.ask(each, PROMPT[:90], **options)

    assert (told.cached_tokens, told.prefix.matched_tokens) == (0, None)
    assert told.prefix.cache_miss == reason
    assert bench.cache.held_bytes == 0


def test_transformers_own_code_takes_no_part(tiny_model, open_bench):
    """Its sums depend on the length of a chunk, so a restored state would not be exact."""
    bench = open_bench(tiny_model("llama", "float32", kernels="eager"))

    assert bench.ask("first", PROMPT).prefix.cache_miss == "not supported on this path"


def test_without_room_nothing_is_kept(tiny_model, open_bench):
    """A cap of zero switches the cache off."""
    bench = open_bench(tiny_model("llama"), max_bytes=0)

    assert bench.ask("first", PROMPT).prefix.cache_miss == "disabled"


def test_short_prompts_say_so(tiny_model, open_bench):
    """Keys and values are kept in blocks of 64 tokens."""
    bench = open_bench(tiny_model("llama"))
    bench.ask("first", PROMPT[:BLOCK_TOKENS])

    assert bench.ask("second", PROMPT[:BLOCK_TOKENS]).prefix.cache_miss == "prompt too short"


@pytest.mark.parametrize("name", ["llama", "falcon_h1"])
def test_an_evicted_prefix_is_computed_again_and_says_so(name, tiny_model, open_bench):
    """After an eviction the answer is the same, and the next hit is there again."""
    model = tiny_model(name)
    bench = open_bench(model)
    bench.ask("first", PROMPT)
    bench.loop.limit_prefix_cache(1)
    bench.drain()
    held = bench.cache.held_bytes
    bench.loop.limit_prefix_cache(ROOM)
    second = [*PROMPT, *bench.tokens("first"), 7]
    gone = bench.ask("gone", second)
    back = bench.ask("back", [*second, *bench.tokens("gone"), 8])
    bench.ask("cold", second, prefix_cache=False)

    assert held == 0
    assert (gone.cached_tokens, gone.prefix.cache_miss) == (0, "evicted")
    assert bench.answer("gone") == bench.answer("cold")
    assert back.cached_tokens > 100


@pytest.mark.parametrize("name", ["llama", "mamba2"])
def test_a_failed_copy_costs_the_shortcut_alone(name, tiny_model, open_bench, monkeypatch):
    """Out of memory while copying or restoring: the request is answered as without a cache."""
    model = tiny_model(name)
    bench = open_bench(model)
    bench.ask("cold", PROMPT, prefix_cache=False)
    bench.ask("first", PROMPT)
    monkeypatch.setattr(module.log, "disabled", True)

    def fail(*_):
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(type(model.copies), "restore", fail)
        failed = bench.ask("restore fails", PROMPT)
        patched.setattr(type(model.copies), "copy_block", fail)
        patched.setattr(type(model.copies), "copy_snapshot", fail)
        bench.ask("copy fails", [3, *PROMPT])
    bench.ask("cold too", [3, *PROMPT], prefix_cache=False)

    if bench.cache.held_bytes and failed.prefix.cache_miss == "failed":
        assert failed.cached_tokens == 0
    assert bench.answer("restore fails") == bench.answer("cold")
    assert bench.answer("copy fails") == bench.answer("cold too")
    assert not bench.cache._pinned


def test_a_restored_prompt_is_prefilled_from_there(tiny_model, open_bench):
    """The scheduler plans the rest alone: one chunk of 22 tokens instead of five."""
    bench = open_bench(tiny_model("llama"))
    bench.ask("first", PROMPT)
    sizes, prefill = [], bench.model.prefill

    def counted(slot, token_ids, **options):
        sizes.append(len(token_ids))
        return prefill(slot, token_ids, **options)

    bench.model.prefill = counted
    try:
        bench.ask("second", PROMPT)
    finally:
        del bench.model.prefill

    assert sizes == [22]


def test_snapshots_are_bounded_in_a_long_prompt(tiny_model, open_bench):
    """Prefill pauses at few places, whatever the chunks are."""
    bench = open_bench(tiny_model("mamba2"), chunk_tokens=8)
    bench.ask("first", PROMPT, message_start=110)

    assert bench.cache.stores["snapshot"] == 2  # before the message, and behind the prompt


def test_an_unloaded_model_leaves_nothing(tiny_folder, open_bench):
    """Its states go with it, and the last report said what they took."""
    from service.torch_host.weights.loading import load

    model = load(tiny_models.resolved("llama", tiny_folder("llama")), slots=2, progress=print)
    bench = open_bench(model)
    bench.ask("first", PROMPT)
    bench.loop._memory.emit_due(at_once=True)
    reports = [frame.memory for frame in bench.frames if isinstance(frame, MemoryReport)]
    held = bench.cache.held_bytes
    bench.loop.remove_model(model.resolved.id)
    bench.drain()

    assert reports[-1].snapshots_bytes == held > 0
    assert bench.cache.held_bytes == 0
