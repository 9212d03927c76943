"""Decisions of the engine loop, without a model."""

from typing import ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from service.torch_host.scheduling.scheduler import LEAST_TOKENS, Decode, Prefill, Scheduler

MS = 1_000_000


class Simulation:
    """Runs a scheduler's steps on a clock that advances by their known costs."""

    def __init__(self, scheduler, costs):
        self.scheduler = scheduler
        self.costs = costs
        """Model → (fixed ns, ns a token of a prompt, ns a running request)."""
        self.now_ns = 0
        self.steps = []
        self.token_ns = {}
        self.itls_ns = {}
        """Request → its inter-token latencies."""
        self.left = {}

    def submit(self, model, name, tokens):
        self.scheduler.submit(model, name, tokens)
        self.left[name] = tokens

    def restart(self, model, name, tokens):
        self.scheduler.restart(model, name, tokens)
        self.left[name] = tokens
        del self.token_ns[name]

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
                self.itls_ns.setdefault(name, []).append(self.now_ns - self.token_ns[name])
            self.token_ns[name] = self.now_ns
        return step

    def run_until(self, name, tokens=1):
        """Step until a request has so many tokens."""
        while (name in self.token_ns) + len(self.itls_ns.get(name, ())) < tokens:
            assert self.step() is not None


@pytest.fixture
def simulate():
    """Simulations of models with given costs: 50 ms for 100 tokens, 15 ms for a decode step."""

    def build(*models, costs=(10 * MS, MS // 2, 5 * MS), chunk_tokens=512, max_itl_ms=100):
        scheduler = Scheduler()
        for model in models:
            scheduler.add_model(
                model, slots=32, chunk_tokens=chunk_tokens, max_itl_ns=max_itl_ms * MS
            )
        given = costs if isinstance(costs, dict) else dict.fromkeys(models, costs)
        return Simulation(scheduler, given)

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


def test_a_restored_prefix_needs_no_prefill():
    """The first chunk shrinks to what is left, and the request decodes after it."""
    scheduler = Scheduler()
    scheduler.add_model("m", slots=2, chunk_tokens=256)
    scheduler.submit("m", "restored", 200)
    first = scheduler.next(0)
    left = scheduler.skip(first, 190)
    scheduler.spent(left, MS, MS)

    assert (first.tokens, left.tokens) == (200, 10)
    assert scheduler.next(MS) == Decode("m", ("restored",))


@pytest.mark.parametrize(("prompt_tokens", "restored"), [(400, 100), (400, 390), (256, 255)])
def test_a_restored_prefix_may_leave_several_chunks(prompt_tokens, restored):
    """What is left is prefilled like any prompt, each token once."""
    scheduler = Scheduler()
    scheduler.add_model("m", slots=2, chunk_tokens=256)
    scheduler.submit("m", "long", prompt_tokens)
    taken = [scheduler.skip(scheduler.next(0), restored)]
    while isinstance(step := scheduler.next(0), Prefill):
        taken.append(step)

    assert sum(step.tokens for step in taken) == prompt_tokens - restored
    assert step == Decode("m", ("long",))


def test_a_restarted_request_is_prefilled_in_chunks_and_decodes_again(queue):
    """It keeps its slot, and running requests get a token after every chunk of it."""
    for name in ("running", "restarted"):
        queue.submit(name, 1)
    steps(queue, 3)
    queue.scheduler.restart("m", "restarted", 20)

    assert [
        Prefill("m", "restarted", 8),
        Decode("m", ("running",)),
        Prefill("m", "restarted", 8),
        Decode("m", ("running",)),
        Prefill("m", "restarted", 4),
        Decode("m", ("running", "restarted")),
    ] == steps(queue, 6)


def test_a_restarted_request_leaves_running_answers_their_tokens_in_time(simulate):
    """A sequence of 8k tokens that is prefilled again keeps the bound of all others."""
    simulation = simulate("m")
    for name in ("a", "restarted"):
        simulation.submit("m", name, 40)
    simulation.run_until("restarted", 4)
    simulation.restart("m", "restarted", 8192)
    simulation.run_until("restarted", 6)

    assert max(simulation.itls_ns["a"]) <= 100 * MS


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


def test_a_long_prompt_leaves_running_answers_their_tokens_in_time(simulate):
    """Chunks of an 8k prompt are cut so that no ITL exceeds the bound, nor is much shorter."""
    simulation = simulate("m")
    for name in ("a", "b", "c"):
        simulation.submit("m", name, 40)
    simulation.run_until("c", 4)
    seen = len(simulation.itls_ns["a"])
    simulation.submit("m", "long", 8192)
    simulation.run_until("long")
    itls_ms = [itl / MS for itl in simulation.itls_ns["a"][seen:]]

    assert max(itls_ms) <= 100
    assert min(itls_ms[4:-1]) >= 70


def test_nothing_running_means_whole_chunks(simulate):
    """While no request runs, a prompt is read in the longest chunks."""
    simulation = simulate("m")
    simulation.submit("m", "long", 1200)

    assert [simulation.step().tokens for _ in range(3)] == [512, 512, 176]


@pytest.mark.parametrize("company", [0, 1, 5])
def test_a_short_prompt_is_answered_within_three_steps(simulate, company):
    """20 tokens that come at any moment of an 8k prompt, with or without running requests."""
    for moment in range(1, 12):
        simulation = simulate("m")
        for number in range(company):
            simulation.submit("m", str(number), 8)
            simulation.run_until(str(number))
        simulation.submit("m", "long", 8192)
        for _ in range(moment):
            simulation.step()
        simulation.submit("m", "short", 20)
        before = len(simulation.steps)
        simulation.run_until("short")

        assert len(simulation.steps) - before <= 3


def test_a_prompt_is_read_though_there_is_no_time_for_it(simulate):
    """Decode steps that break the bound by themselves are each followed by a smallest chunk."""
    simulation = simulate("m", costs=(120 * MS, MS, 0))
    simulation.submit("m", "running", 1)
    simulation.run_until("running", 4)
    simulation.submit("m", "long", 4 * LEAST_TOKENS)
    begun = len(simulation.steps)
    simulation.run_until("long")
    kinds = [getattr(step, "tokens", "decode") for step in simulation.steps[begun:]]

    assert kinds[-7:] == [LEAST_TOKENS, "decode"] * 3 + [LEAST_TOKENS]


def test_chunks_that_are_cut_short_are_multiples(simulate):
    """Only a prompt's last chunk and one that fits in whole have an odd length."""
    simulation = simulate("m")
    simulation.submit("m", "running", 1)
    simulation.run_until("running", 4)
    simulation.submit("m", "long", 1000)
    simulation.run_until("long")
    prefills = [step for step in simulation.steps if isinstance(step, Prefill)]
    chunks = [step.tokens for step in prefills if step.request_id == "long"]

    assert all(tokens % LEAST_TOKENS == 0 for tokens in chunks[:-1])


def test_another_models_prompt_leaves_running_answers_their_tokens_in_time(simulate):
    """A decode step of one model does not wait for an 8k prompt of another."""
    simulation = simulate("a", "b")
    simulation.submit("a", "running", 20)
    simulation.run_until("running", 4)
    simulation.submit("b", "long", 8192)
    simulation.run_until("long")

    assert max(simulation.itls_ns["running"]) <= 100 * MS


def test_a_model_with_one_request_is_not_starved_by_one_with_many(simulate):
    """One request beside 32 of another model gets half the time, and both keep to the bound."""
    simulation = simulate("busy", "quiet", costs=(4 * MS, MS // 2, MS))
    for number in range(32):
        simulation.submit("busy", str(number), 4)
    simulation.run_until("31", 4)
    simulation.submit("quiet", "only", 4)
    simulation.run_until("only", 401)
    used = {"busy": 0, "quiet": 0}
    for step in simulation.steps[-200:]:
        used[step.model_id] += 36 if step.model_id == "busy" else 5

    assert 0.8 < used["quiet"] / used["busy"] < 1.25
    assert max(simulation.itls_ns["only"]) <= 100 * MS
    assert max(simulation.itls_ns["0"][-20:]) <= 100 * MS


def test_turns_give_way_to_a_decode_step_that_is_due(simulate):
    """Where equal time would make a large batch late, it comes earlier than its turn."""
    simulation = simulate(
        "large", "small", costs={"large": (60 * MS, MS, 0), "small": (5 * MS, MS, 0)}
    )
    simulation.submit("large", "l", 1)
    simulation.submit("small", "s", 1)
    simulation.run_until("l", 31)

    assert max(simulation.itls_ns["l"][3:]) <= 100 * MS
    assert len(simulation.itls_ns["s"]) > 90


def test_a_model_too_slow_for_its_bound_takes_no_more_than_its_turn(simulate):
    """It cannot be in time anyway: a quick model beside it keeps half of the time."""
    simulation = simulate(
        "slow", "quick", costs={"slow": (300 * MS, MS, 0), "quick": (5 * MS, MS, 0)}
    )
    simulation.submit("slow", "s", 1)
    simulation.submit("quick", "q", 1)
    simulation.run_until("s", 11)

    assert len(simulation.itls_ns["q"]) > 10 * 50


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_any_requests_are_answered_and_itls_stay_near_the_bound(data):
    """Any arrivals at two models that can keep time: one smallest chunk too much at most."""
    scheduler, costs = Scheduler(), {}
    for model in ("a", "b"):
        scheduler.add_model(model, slots=4, chunk_tokens=512, max_itl_ns=100 * MS)
        token_us = data.draw(st.integers(10, 400))
        costs[model] = (data.draw(st.integers(1, 12)) * MS, token_us * 1000, MS)
    simulation = Simulation(scheduler, costs)
    names = iter(range(100))
    for _ in range(data.draw(st.integers(1, 8))):
        model = data.draw(st.sampled_from(["a", "b"]))
        simulation.submit(model, f"{model}{next(names)}", data.draw(st.integers(1, 3000)))
        for _ in range(data.draw(st.integers(0, 40))):
            simulation.step()
    while simulation.step() is not None:
        assert len(simulation.steps) < 3000
        for name, itls in simulation.itls_ns.items():
            if len(itls) >= 40:
                scheduler.drop(name[0], name)

    assert set(simulation.token_ns) == set(simulation.left)
    chunk_ns = max(fixed + token * LEAST_TOKENS for fixed, token, _ in costs.values())
    assert max(map(max, simulation.itls_ns.values())) <= 90 * MS + chunk_ns


class SchedulerMachine(RuleBasedStateMachine):
    """Requests of two models come, are restarted, finish and are cancelled at any moment."""

    SLOTS, CHUNK, MAX_ITL_MS = 3, 256, 100
    COSTS: ClassVar = {"a": (10 * MS, MS // 4, MS), "b": (4 * MS, MS // 10, MS)}

    def __init__(self):
        super().__init__()
        self.scheduler = Scheduler()
        for model in self.COSTS:
            self.scheduler.add_model(
                model, slots=self.SLOTS, chunk_tokens=self.CHUNK, max_itl_ns=self.MAX_ITL_MS * MS
            )
        self.simulation = Simulation(self.scheduler, self.COSTS)
        self.names = iter(range(10**6))
        self.waiting, self.prefilling, self.decoding, self.ended = set(), set(), set(), set()

    @property
    def live(self):
        return sorted(self.waiting | self.prefilling | self.decoding)

    def end(self, name):
        self.scheduler.drop(name[0], name)
        for state in (self.waiting, self.prefilling, self.decoding):
            state.discard(name)
        assert name not in self.ended
        self.ended.add(name)

    @rule(model=st.sampled_from(["a", "b"]), tokens=st.integers(1, 700))
    def submit(self, model, tokens):
        name = f"{model}{next(self.names)}"
        self.simulation.submit(model, name, tokens)
        self.waiting.add(name)

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def cancel(self, data):
        self.end(data.draw(st.sampled_from(self.live)))

    @precondition(lambda self: self.decoding)
    @rule(data=st.data())
    def finish(self, data):
        self.end(data.draw(st.sampled_from(sorted(self.decoding))))

    @precondition(lambda self: self.decoding)
    @rule(data=st.data(), tokens=st.integers(1, 700))
    def restart(self, data, tokens):
        name = data.draw(st.sampled_from(sorted(self.decoding)))
        self.simulation.restart(name[0], name, tokens)
        self.decoding.remove(name)
        self.prefilling.add(name)

    @rule()
    def step(self):
        match self.simulation.step():
            case None:
                assert not self.live
            case Prefill(request_id=name):
                assert name in self.waiting | self.prefilling
                self.waiting.discard(name)
                self.prefilling.add(name)
                if not self.simulation.left[name]:
                    self.prefilling.remove(name)
                    self.decoding.add(name)
            case Decode(model_id=model, request_ids=names):
                assert {name for name in self.decoding if name[0] == model} == set(names)

    @invariant()
    def no_slot_is_shared(self):
        for model in self.COSTS:
            held = [name for name in self.prefilling | self.decoding if name[0] == model]
            assert len(held) <= self.SLOTS

    @invariant()
    def every_request_is_known_once(self):
        for model in self.COSTS:
            assert self.scheduler.idle(model) == (not any(name[0] == model for name in self.live))

    @invariant()
    def the_itl_bound_holds(self):
        chunk_ns = max(fixed + token * LEAST_TOKENS for fixed, token, _ in self.COSTS.values())
        itls_ns = [itl for itls in self.simulation.itls_ns.values() for itl in itls]
        assert max(itls_ns, default=0) <= 90 * MS + chunk_ns

    def teardown(self):
        """Every request that is left gets its first token, and can end."""
        steps = 0
        while self.live:
            self.step()
            steps += 1
            assert steps < 20_000
            for name in sorted(self.decoding):
                if len(self.simulation.itls_ns.get(name, ())) >= 3:
                    self.end(name)
        assert self.scheduler.next(self.simulation.now_ns) is None


SchedulerMachine.TestCase.settings = settings(
    max_examples=50, stateful_step_count=60, deadline=None
)
TestScheduler = SchedulerMachine.TestCase
