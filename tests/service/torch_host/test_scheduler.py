"""Decisions of the engine loop, without a model."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from service.torch_host.scheduler import LEAST_TOKENS, Decode, Prefill, Scheduler

MS = 1_000_000


class Machine:
    """Runs a scheduler's steps against costs that are known: its clock is the sum of them."""

    def __init__(self, scheduler, costs):
        self.scheduler = scheduler
        self.costs = costs
        """Model → (fixed ns, ns a token of a prompt, ns a running request)."""
        self.now_ns = 0
        self.steps = []
        self.token_ns = {}
        self.gaps_ns = {}
        """Request → times between its tokens."""
        self.left = {}

    def submit(self, model, name, tokens):
        self.scheduler.submit(model, name, tokens)
        self.left[name] = tokens

    def step(self):
        step = self.scheduler.next(self.now_ns)
        if step is None:
            return None
        fixed_ns, token_ns, request_ns = self.costs[step.model_id]
        if isinstance(step, Prefill):
            duration_ns = fixed_ns + token_ns * step.tokens
            self.left[step.request_id] -= step.tokens
            told = () if self.left[step.request_id] else (step.request_id,)
        else:
            duration_ns = fixed_ns + request_ns * len(step.request_ids)
            told = step.request_ids
        self.now_ns += duration_ns
        self.scheduler.spent(step, duration_ns, self.now_ns)
        self.steps.append(step)
        for name in told:
            if name in self.token_ns:
                self.gaps_ns.setdefault(name, []).append(self.now_ns - self.token_ns[name])
            self.token_ns[name] = self.now_ns
        return step

    def run_until(self, name, tokens=1):
        """Step until a request has so many tokens."""
        while (name in self.token_ns) + len(self.gaps_ns.get(name, ())) < tokens:
            assert self.step() is not None


@pytest.fixture
def open_machine():
    """Builds machines of models with costs: 50 ms for 100 tokens, 15 ms for a request's token."""

    def build(*models, costs=(10 * MS, MS // 2, 5 * MS), chunk_tokens=512, max_itl_ms=100):
        scheduler = Scheduler()
        for model in models:
            scheduler.add_model(
                model, slots=32, chunk_tokens=chunk_tokens, max_itl_ns=max_itl_ms * MS
            )
        given = costs if isinstance(costs, dict) else dict.fromkeys(models, costs)
        return Machine(scheduler, given)

    return build


class Turns:
    """A scheduler with one model and without a clock."""

    def __init__(self, *, slots, chunk_tokens):
        self.scheduler = Scheduler()
        self.scheduler.add_model("m", slots=slots, chunk_tokens=chunk_tokens)

    def submit(self, *arguments, **options):
        self.scheduler.submit("m", *arguments, **options)

    def drop(self, name):
        self.scheduler.drop("m", name)

    def next(self):
        return self.scheduler.next(0)


@pytest.fixture
def queue():
    return Turns(slots=4, chunk_tokens=8)


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
        step = scheduler.next(0)
        cost = 32 if step.model_id == "busy" else 3
        used[step.model_id] += cost
        scheduler.spent(step, cost, 0)

    assert abs(used["busy"] - used["quiet"]) <= 64


@pytest.mark.parametrize("first_used", [1, 1000])
def test_idle_time_is_neither_saved_nor_owed(first_used):
    """A model that wakes shares evenly from then on, whatever it or the others used before."""
    scheduler = Scheduler()
    for model in ("a", "b"):
        scheduler.add_model(model, slots=1, chunk_tokens=8)
    scheduler.submit("a", "1", 1)
    scheduler.spent(scheduler.next(0), first_used, 0)
    scheduler.drop("a", "1")
    scheduler.submit("b", "2", 1)
    for _ in range(50):
        scheduler.spent(scheduler.next(0), 10, 0)
    scheduler.submit("a", "3", 1)

    turns = []
    for _ in range(20):
        step = scheduler.next(0)
        turns.append(step.model_id)
        scheduler.spent(step, 10, 0)

    assert 8 <= turns.count("a") <= 12


def test_a_long_prompt_leaves_running_answers_their_tokens_in_time(open_machine):
    """Pieces of an 8k prompt are cut so that no gap is longer than the bound, nor much shorter."""
    machine = open_machine("m")
    for name in ("a", "b", "c"):
        machine.submit("m", name, 40)
    machine.run_until("c", 4)
    seen = len(machine.gaps_ns["a"])
    machine.submit("m", "long", 8192)
    machine.run_until("long")
    gaps_ms = [gap / MS for gap in machine.gaps_ns["a"][seen:]]

    assert max(gaps_ms) <= 100
    assert min(gaps_ms[4:-1]) >= 70


def test_nothing_running_means_whole_chunks(open_machine):
    """While no request runs, a prompt is read in the longest pieces."""
    machine = open_machine("m")
    machine.submit("m", "long", 1200)

    assert [machine.step().tokens for _ in range(3)] == [512, 512, 176]


@pytest.mark.parametrize("company", [0, 1, 5])
def test_a_short_prompt_is_answered_within_three_steps(open_machine, company):
    """20 tokens that come at any moment of an 8k prompt, with or without running requests."""
    for moment in range(1, 12):
        machine = open_machine("m")
        for number in range(company):
            machine.submit("m", str(number), 8)
            machine.run_until(str(number))
        machine.submit("m", "long", 8192)
        for _ in range(moment):
            machine.step()
        machine.submit("m", "short", 20)
        before = len(machine.steps)
        machine.run_until("short")

        assert len(machine.steps) - before <= 3


def test_a_prompt_is_read_though_there_is_no_time_for_it(open_machine):
    """Decode steps that break the bound by themselves are each followed by a smallest piece."""
    machine = open_machine("m", costs=(120 * MS, MS, 0))
    machine.submit("m", "running", 1)
    machine.run_until("running", 4)
    machine.submit("m", "long", 4 * LEAST_TOKENS)
    begun = len(machine.steps)
    machine.run_until("long")
    kinds = [getattr(step, "tokens", "decode") for step in machine.steps[begun:]]

    assert kinds[-7:] == [LEAST_TOKENS, "decode"] * 3 + [LEAST_TOKENS]


def test_pieces_that_are_cut_short_are_multiples(open_machine):
    """Only a prompt's last piece and one that fits in whole have an odd length."""
    machine = open_machine("m")
    machine.submit("m", "running", 1)
    machine.run_until("running", 4)
    machine.submit("m", "long", 1000)
    machine.run_until("long")
    prefills = [step for step in machine.steps if isinstance(step, Prefill)]
    pieces = [step.tokens for step in prefills if step.request_id == "long"]

    assert all(tokens % LEAST_TOKENS == 0 for tokens in pieces[:-1])


def test_another_models_prompt_leaves_running_answers_their_tokens_in_time(open_machine):
    """A decode step of one model does not wait for an 8k prompt of another."""
    machine = open_machine("a", "b")
    machine.submit("a", "running", 20)
    machine.run_until("running", 4)
    machine.submit("b", "long", 8192)
    machine.run_until("long")

    assert max(machine.gaps_ns["running"]) <= 100 * MS


def test_a_model_with_one_request_is_not_starved_by_one_with_many(open_machine):
    """One request beside 32 of another model gets half the time, and both keep to the bound."""
    machine = open_machine("busy", "quiet", costs=(4 * MS, MS // 2, MS))
    for number in range(32):
        machine.submit("busy", str(number), 4)
    machine.run_until("31", 4)
    machine.submit("quiet", "only", 4)
    machine.run_until("only", 401)
    used = {"busy": 0, "quiet": 0}
    for step in machine.steps[-200:]:
        used[step.model_id] += 36 if step.model_id == "busy" else 5

    assert 0.8 < used["quiet"] / used["busy"] < 1.25
    assert max(machine.gaps_ns["only"]) <= 100 * MS
    assert max(machine.gaps_ns["0"][-20:]) <= 100 * MS


def test_turns_give_way_to_a_decode_step_that_is_due(open_machine):
    """Where equal time would make a large batch late, it comes earlier than its turn."""
    machine = open_machine(
        "large", "small", costs={"large": (60 * MS, MS, 0), "small": (5 * MS, MS, 0)}
    )
    machine.submit("large", "l", 1)
    machine.submit("small", "s", 1)
    machine.run_until("l", 31)

    assert max(machine.gaps_ns["l"][3:]) <= 100 * MS
    assert len(machine.gaps_ns["s"]) > 90


def test_a_model_too_slow_for_its_bound_takes_no_more_than_its_turn(open_machine):
    """It cannot be in time anyway: a quick model beside it keeps half of the time."""
    machine = open_machine(
        "slow", "quick", costs={"slow": (300 * MS, MS, 0), "quick": (5 * MS, MS, 0)}
    )
    machine.submit("slow", "s", 1)
    machine.submit("quick", "q", 1)
    machine.run_until("s", 11)

    assert len(machine.gaps_ns["q"]) > 10 * 50


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_any_requests_are_answered_and_gaps_stay_near_the_bound(data):
    """Any arrivals at two models that can keep time: one smallest piece too much at most."""
    scheduler, costs = Scheduler(), {}
    for model in ("a", "b"):
        scheduler.add_model(model, slots=4, chunk_tokens=512, max_itl_ns=100 * MS)
        token_us = data.draw(st.integers(10, 400))
        costs[model] = (data.draw(st.integers(1, 12)) * MS, token_us * 1000, MS)
    machine = Machine(scheduler, costs)
    names = iter(range(100))
    for _ in range(data.draw(st.integers(1, 8))):
        model = data.draw(st.sampled_from(["a", "b"]))
        machine.submit(model, f"{model}{next(names)}", data.draw(st.integers(1, 3000)))
        for _ in range(data.draw(st.integers(0, 40))):
            machine.step()
    while machine.step() is not None:
        assert len(machine.steps) < 3000
        for name, gaps in machine.gaps_ns.items():
            if len(gaps) >= 40:
                scheduler.drop(name[0], name)

    assert set(machine.token_ns) == set(machine.left)
    piece_ns = max(fixed + token * LEAST_TOKENS for fixed, token, _ in costs.values())
    assert max(map(max, machine.gaps_ns.values())) <= 90 * MS + piece_ns


class QueueMachine(RuleBasedStateMachine):
    """Requests come, go and are dropped at any moment."""

    SLOTS, CHUNK = 3, 8

    def __init__(self):
        super().__init__()
        self.queue = Turns(slots=self.SLOTS, chunk_tokens=self.CHUNK)
        self.names = iter(range(10**6))
        self.left = {}
        self.begun = set()
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
        self.begun.discard(name)
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
                self.begun.add(name)
                if not self.left[name]:
                    del self.left[name]
                    self.begun.remove(name)
                    self.decoding.add(name)
                assert len(self.begun | self.decoding) <= self.SLOTS
            case Decode(request_ids=names):
                assert self.decoding == set(names)
                self.read_since_decode = 0

    @invariant()
    def counts_agree(self):
        assert self.queue.scheduler.idle("m") == (not self.left and not self.decoding)
        assert all(tokens > 0 for tokens in self.left.values())


QueueMachine.TestCase.settings = settings(max_examples=50, stateful_step_count=60)
TestQueue = QueueMachine.TestCase
