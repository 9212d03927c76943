"""Decisions of the engine loop, without a model."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from service.engines.torch.scheduler import Decode, ModelQueue, Prefill, Scheduler


@pytest.fixture
def queue():
    return ModelQueue("m", slots=4, chunk_tokens=8)


def steps(queue, count):
    return [queue.next() for _ in range(count)]


def test_a_long_prompt_is_read_in_chunks_between_decode_steps(queue):
    """A running request gets a token after every chunk of another's prompt."""
    queue.submit("running", 1)
    queue.next()
    queue.submit("long", 20)

    assert [
        Prefill("m", "long", 8),
        Decode("m", ("running",)),
        Prefill("m", "long", 8),
        Decode("m", ("running",)),
        Prefill("m", "long", 4),
        Decode("m", ("running", "long")),
    ] == steps(queue, 7)[1:]


def test_short_prompts_share_the_budget_between_two_decode_steps(queue):
    """Several prompts are read at once if together they are no longer than a chunk."""
    queue.submit("running", 1)
    steps(queue, 2)
    for name in ("a", "b", "c"):
        queue.submit(name, 4)

    assert ["a", "b", Decode, "c", Decode] == [
        step.request_id if isinstance(step, Prefill) else Decode for step in steps(queue, 5)
    ]


def test_a_short_prompt_does_not_wait_for_a_long_one(queue):
    """Chunks alternate between the oldest prompt and the one with the fewest tokens left."""
    queue.submit("long", 80)
    queue.next()
    queue.submit("short", 3)

    assert Prefill("m", "short", 3) == queue.next()


def test_a_long_prompt_is_not_starved_by_short_ones(queue):
    """At least every second chunk goes to the oldest prompt."""
    queue.submit("long", 80)
    read = []
    for number in range(4):
        queue.submit(f"short-{number}", 8)
        step = queue.next()
        while isinstance(step, Decode):
            step = queue.next()
        read.append(step.request_id)

    assert read.count("long") == 2


def test_a_request_waits_for_a_slot_and_gets_the_first_free_one(queue):
    """More requests than slots wait in order; a dropped one makes room at once."""
    for number in range(6):
        queue.submit(str(number), 2)
    steps(queue, 5)
    assert Decode("m", ("0", "1", "2", "3")) == queue.next()

    queue.drop("2")

    assert Prefill("m", "4", 2) == queue.next()
    assert Decode("m", ("0", "1", "3", "4")) == queue.next()


def test_a_request_may_ask_for_smaller_chunks(queue):
    """A scored prompt is read in its own, smaller chunks."""
    queue.submit("scored", 7, chunk_tokens=3)

    assert [step.tokens for step in steps(queue, 3)] == [3, 3, 1]


def test_the_model_that_used_least_time_is_next():
    """A model with one request is not starved by one with many."""
    scheduler = Scheduler()
    for model in ("busy", "quiet"):
        scheduler.add_model(model, slots=32, chunk_tokens=8)
    for number in range(32):
        scheduler.submit("busy", str(number), 1)
    scheduler.submit("quiet", "only", 1)
    used = {"busy": 0, "quiet": 0}
    for _ in range(300):
        step = scheduler.next()
        cost = 32 if step.model_id == "busy" else 3
        used[step.model_id] += cost
        scheduler.spent(step.model_id, cost)

    assert abs(used["busy"] - used["quiet"]) <= 64


@pytest.mark.parametrize("first_used", [1, 1000])
def test_idle_time_is_neither_saved_nor_owed(first_used):
    """A model that wakes shares evenly from then on, whatever it or the others used before."""
    scheduler = Scheduler()
    for model in ("a", "b"):
        scheduler.add_model(model, slots=1, chunk_tokens=8)
    scheduler.submit("a", "1", 1)
    scheduler.next()
    scheduler.spent("a", first_used)
    scheduler.drop("a", "1")
    scheduler.submit("b", "2", 1)
    for _ in range(50):
        scheduler.next()
        scheduler.spent("b", 10)
    scheduler.submit("a", "3", 1)

    turns = []
    for _ in range(20):
        turns.append(scheduler.next().model_id)
        scheduler.spent(turns[-1], 10)

    assert 8 <= turns.count("a") <= 12


class QueueMachine(RuleBasedStateMachine):
    """Requests come, go and are dropped at any moment."""

    SLOTS, CHUNK = 3, 8

    def __init__(self):
        super().__init__()
        self.queue = ModelQueue("m", slots=self.SLOTS, chunk_tokens=self.CHUNK)
        self.names = iter(range(10**6))
        self.left = {}
        self.decoding = set()
        self.read_since_decode = 0

    @rule(tokens=st.integers(1, 40))
    def submit(self, tokens):
        name = str(next(self.names))
        self.queue.submit(name, tokens)
        self.left[name] = tokens

    @precondition(lambda self: self.left or self.decoding)
    @rule(data=st.data())
    def drop(self, data):
        name = data.draw(st.sampled_from(sorted([*self.left, *self.decoding])))
        self.queue.drop(name)
        self.left.pop(name, None)
        self.decoding.discard(name)

    @rule()
    def step(self):
        match self.queue.next():
            case None:
                assert not self.left
                assert not self.decoding
            case Prefill(request_id=name, tokens=tokens):
                self.read_since_decode += tokens
                assert not self.decoding or self.read_since_decode <= self.CHUNK
                self.left[name] -= tokens
                if not self.left[name]:
                    del self.left[name]
                    self.decoding.add(name)
                assert len(self.queue._prefilling) + len(self.decoding) <= self.SLOTS
            case Decode(request_ids=names):
                assert self.decoding == set(names)
                self.read_since_decode = 0

    @invariant()
    def counts_agree(self):
        assert len(self.queue) == len(self.left) + len(self.decoding)
        assert all(tokens > 0 for tokens in self.left.values())


QueueMachine.TestCase.settings = settings(max_examples=50, stateful_step_count=60)
TestQueue = QueueMachine.TestCase
