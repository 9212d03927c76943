"""The engine loop over real tiny models: joining, leaving, cancelling, failing."""

import math
import threading
import time
from collections import defaultdict
from itertools import pairwise

import pytest
import torch

from service.core.chat import ChatRequest, Sampling, TokenPrompt
from service.core.errors import InvalidRequest
from service.core.events import Delta, Finished, Started
from service.engines.text.codec import TextCodec
from service.engines.torch.protocol.messages import (
    Events,
    MemoryReport,
    PromptScores,
    RequestFailed,
    Unloaded,
)
from service.torch_host import loop as module
from service.torch_host import sequence as sequence_module
from service.torch_host import slot_model
from service.torch_host.loop import EngineLoop
from service.torch_host.sequence import Sequence
from support import tiny_text

CODEC = TextCodec(tiny_text.byte_level(), named={}, template=None, eos_ids=(2,))
PROMPTS = {"a": range(10, 33), "b": range(40, 45), "c": range(20, 60), "d": range(50, 61)}


class Bench:
    """A loop stepped by hand, with the events of each request."""

    def __init__(self, *models, chunk_tokens=8, max_itl_ms=math.inf):
        self.frames = []
        self.loop = EngineLoop(self.frames.append)
        self.models = {model.resolved.id: model for model in models}
        for model in models:
            self.loop.add_model(model, chunk_tokens=chunk_tokens, max_itl_ms=max_itl_ms)

    def submit(self, name, prompt=None, *, model=None, **fields):
        """Queue a request for the model given, else the first."""
        model = model or next(iter(self.models.values()))
        prompt = TokenPrompt(tuple(prompt or PROMPTS[name]))
        echo, limit = fields.pop("echo", False), fields.pop("max_answer_tokens", None)
        request = ChatRequest(
            request_id=name,
            model=model.resolved.id,
            prompt=prompt,
            sampling=Sampling(**{"max_tokens": 12, "ignore_eos": True, **fields}),
            echo=echo,
            accepted_ns=0,
            accepted_at_ns=0,
        )
        sequence = Sequence(
            request,
            CODEC,
            model_id=model.resolved.id,
            queued_ns=time.monotonic_ns(),
            context_tokens=model.context_tokens,
            vocabulary_tokens=model.vocabulary_tokens,
            max_answer_tokens=limit,
        )
        self.loop.submit(sequence)
        return sequence

    def step(self, count=1):
        with torch.inference_mode():
            return [self.loop.step() for _ in range(count)]

    def drain(self):
        """Run until nothing is left to do."""
        while self.step() == [True]:
            pass
        return self

    def close(self):
        """Give every slot back: the models serve other tests too."""
        for name in list(self.loop._sequences):
            self.loop.cancel(name)
        self.step()

    @property
    def events(self):
        """Events of each request, in order."""
        found = defaultdict(list)
        for frame in self.frames:
            if isinstance(frame, Events):
                for name, event in frame.items:
                    found[name].append(event)
        return found

    def tokens(self, name):
        deltas = [event for event in self.events[name] if isinstance(event, Delta)]
        return [token for delta in deltas for token in delta.token_ids]

    def finished(self, name):
        return next(event for event in self.events[name] if isinstance(event, Finished))

    def scores(self, name):
        """Scores of a request's prompt, in order."""
        frames = [frame for frame in self.frames if isinstance(frame, PromptScores)]
        return [score for frame in frames if frame.request_id == name for score in frame.scores]

    def failures(self):
        return {f.request_id: f for f in self.frames if isinstance(f, RequestFailed)}

    def used(self):
        return sum(model.memory().slots_used for model in self.models.values())


@pytest.fixture
def open_bench():
    """Builds benches whose slots are given back after the test."""
    opened = []

    def build(*models, **options):
        opened.append(Bench(*models, **options))
        return opened[-1]

    yield build
    for bench in opened:
        bench.close()


def alone(model, name, **fields):
    """What a request answers on its own, its prompt read at once."""
    bench = Bench(model, chunk_tokens=1000)
    bench.submit(name, **fields)
    return bench.drain().tokens(name)


@pytest.fixture(params=["llama", "mamba2", "falcon_h1"])
def model(request, tiny_model):
    return tiny_model(request.param)


@pytest.fixture
def llama(tiny_model):
    return tiny_model("llama")


OPTIONS = {
    "greedy": {"temperature": 0.0},
    "sampled": {"seed": 11, "top_p": 0.9, "temperature": 1.3},
    "penalized": {"seed": 5, "repetition_penalty": 1.2, "presence_penalty": 0.5, "top_k": 30},
}


@pytest.mark.parametrize("options", OPTIONS)
def test_a_request_answers_the_same_in_company(open_bench, model, options):
    """Tokens are equal alone and among requests that join and leave at other moments."""
    bench = open_bench(model)
    lengths = dict(zip(PROMPTS, (8, 20, 5, 14), strict=True))
    for name, length in lengths.items():
        bench.submit(name, **OPTIONS[options], max_tokens=length)
        bench.step(3)
    bench.drain()

    for name, length in lengths.items():
        assert bench.tokens(name) == alone(model, name, **OPTIONS[options], max_tokens=length)


def test_the_first_event_is_started_and_the_last_finished(open_bench, model):
    """Counts, stamps and state of one answer agree."""
    bench = open_bench(model)
    bench.submit("a", seed=1)
    events = bench.drain().events["a"]
    started, finished = events[0], events[-1]

    assert [type(event) for event in events] == [Started, *[Delta] * 12, Finished]
    assert (started.prompt_tokens, finished.completion_tokens) == (23, 12)
    assert started.queued_ns <= started.scheduled_ns <= finished.first_ns < finished.last_ns
    assert (finished.first_ns, finished.last_ns) == (events[1].at_ns, events[-2].at_ns)
    assert finished.state.reserved_bytes > 0
    assert finished.build == model.build


def test_a_running_answer_goes_on_while_a_long_prompt_is_read(open_bench, model):
    """Between any two chunks of the long prompt the running request gets a token."""
    bench = open_bench(model)
    bench.submit("a", max_tokens=40)
    bench.step(4)
    before = len(bench.tokens("a"))
    bench.submit("long", range(5, 105))  # 13 chunks
    while not bench.tokens("long"):
        bench.step()

    assert len(bench.tokens("a")) - before >= 12


class Slow:
    """A model whose prompts take 2 ms a token."""

    def __init__(self, model):
        self._model = model

    def __getattr__(self, name):
        return getattr(self._model, name)

    def prefill(self, slot, token_ids, **options):
        time.sleep(0.002 * len(token_ids))
        return self._model.prefill(slot, token_ids, **options)


def test_a_running_answer_gets_its_tokens_in_time(open_bench, tiny_model):
    """A prompt that would take 400 ms, of the same model or another, is cut to the bound."""
    llama, mamba = Slow(tiny_model("llama")), Slow(tiny_model("mamba2"))
    for other in (llama, mamba):
        bench = open_bench(llama, mamba, chunk_tokens=1000, max_itl_ms=150)
        bench.submit("b", max_tokens=200)
        bench.step(4)
        bench.submit("long", list(range(5, 105)) * 2, model=other, max_tokens=1)
        while not bench.tokens("long"):
            bench.step()
        stamps = [event.at_ns for event in bench.events["b"] if isinstance(event, Delta)]
        gaps_ms = [(late - early) / 1e6 for early, late in pairwise(stamps)]

        assert max(gaps_ms) < 250
        bench.close()


def test_co_scheduled_counts_the_others_of_a_step(open_bench, llama):
    """The largest batch that a request shared is reported."""
    bench = open_bench(llama)
    for name in ("a", "b", "c"):
        bench.submit(name, max_tokens=30)
    bench.submit("d", max_tokens=1)
    bench.drain()

    assert {name: bench.finished(name).co_scheduled for name in PROMPTS} == {
        "a": 2, "b": 2, "c": 2, "d": 0,
    }  # fmt: skip


def test_a_cancelled_request_frees_its_slot_before_the_next_step(open_bench, model):
    """Cancelled while waiting, reading or answering: no event follows and the slot is free."""
    bench = open_bench(model)
    bench.submit("a", max_tokens=100)
    bench.submit("b", max_tokens=100)
    bench.submit("long", range(5, 105))
    while bench.used() < 3:
        bench.step()
    bench.submit("waiting", range(5, 105))
    for name in ("a", "long", "waiting", "unknown"):
        bench.loop.cancel(name)
    seen = len(bench.events["a"]), len(bench.events["long"])
    bench.step()

    assert bench.used() == 1
    assert (len(bench.events["a"]), len(bench.events["long"])) == seen
    bench.loop.cancel("b")
    assert bench.step() == [False]


def test_a_slot_that_was_cancelled_leaks_nothing(open_bench, model):
    """A request in a slot that another left half-way answers as if it were the first."""
    bench = open_bench(model)
    for name in range(5):
        bench.submit(str(name), range(60, 90), max_tokens=100)
    bench.step(20)
    for name in range(5):
        bench.loop.cancel(str(name))
    for name in PROMPTS:
        bench.submit(name, temperature=0)
    bench.drain()

    assert all(bench.tokens(name) == alone(model, name, temperature=0) for name in PROMPTS)


def test_more_requests_than_slots_wait_their_turn(open_bench, llama):
    """Every request is answered, though there are fewer slots."""
    bench = open_bench(llama)
    for number in range(12):
        bench.submit(str(number), range(10, 15 + number), max_tokens=4)
    bench.drain()

    assert [len(bench.tokens(str(number))) for number in range(12)] == [4] * 12
    assert bench.used() == 0


def test_models_take_turns(open_bench, tiny_model):
    """A model with one request is answered while another has many."""
    llama, mamba = tiny_model("llama"), tiny_model("mamba2")
    bench = open_bench(llama, mamba)
    for number in range(5):
        bench.submit(str(number), range(10, 15), model=llama, max_tokens=200)
    bench.submit("b", model=mamba, max_tokens=5)
    while not any(isinstance(event, Finished) for event in bench.events["b"]):
        bench.step()

    assert len(bench.tokens("0")) < 100
    for number in range(5):
        bench.loop.cancel(str(number))
    bench.drain()


def test_the_answer_ends_at_its_end_token(open_bench, model):
    """An end of sequence is counted but not shown, and finishes with `stop`."""
    bench = open_bench(model)
    bench.submit("a", ignore_eos=False, logit_bias={2: 100.0}, temperature=0)
    finished = bench.drain().finished("a")

    assert (finished.reason, finished.completion_tokens, finished.text) == ("stop", 1, "")
    assert [event.text for event in bench.events["a"] if isinstance(event, Delta)] == [""]


def test_min_tokens_keeps_the_end_away(open_bench, model):
    """The end token comes no sooner than `min_tokens` tokens."""
    bench = open_bench(model)
    bench.submit("a", ignore_eos=False, logit_bias={2: 100.0}, min_tokens=4, temperature=0)
    bench.drain()

    assert bench.tokens("a").index(2) == 4


def test_a_stop_string_ends_the_answer(open_bench, llama):
    """The text is cut before the stop string, and no token is sampled after it."""
    text = "".join(map(CODEC.token_text, alone(llama, "b", temperature=0)))
    stop = text[3:6]
    bench = open_bench(llama)
    bench.submit("b", temperature=0, stop=(stop,))
    events = bench.drain().events["b"]
    shown = "".join(getattr(event, "text", "") for event in events)

    assert shown == text[: text.index(stop)]
    assert bench.finished("b").reason == "stop"
    assert bench.finished("b").completion_tokens < 12


def test_a_prompt_is_scored_across_chunks(open_bench, model):
    """Echoed log-probabilities do not depend on the chunks and match the answer's own."""
    results = []
    for chunk in (4, 1000):
        bench = open_bench(model, chunk_tokens=chunk)
        bench.submit("a", echo=True, logprobs=1, temperature=0, max_tokens=1)
        started = bench.drain().events["a"][0]
        scores = bench.scores("a")
        results.append([token.logprob for token in scores])
        assert [token.token_id for token in scores] == list(PROMPTS["a"])
        assert started.prompt_text == CODEC.decode(PROMPTS["a"])

    assert results[0][0] is None
    assert results[0][1:] == pytest.approx(results[1][1:], abs=1e-4)


def test_a_prompt_can_be_scored_without_an_answer(open_bench, llama):
    """`max_tokens` 0 gives the scores alone."""
    bench = open_bench(llama)
    bench.submit("a", echo=True, logprobs=0, max_tokens=0)
    _, finished = bench.drain().events["a"]

    assert len(bench.scores("a")) == len(PROMPTS["a"])
    assert (finished.reason, finished.completion_tokens, finished.first_ns) == ("length", 0, None)


def test_scores_travel_in_frames_of_bounded_size(open_bench, llama, monkeypatch):
    """A prompt's scores are cut by their number, whatever the chunk.

    Regression: they came in one frame, which a long prompt with 20 alternatives made larger than
    the service takes, and the service hung up on the host with all its models.
    """
    monkeypatch.setattr(module, "FRAME_SCORES", 12)
    bench = open_bench(llama, chunk_tokens=1000)
    bench.submit("a", echo=True, logprobs=3, max_tokens=0)
    bench.drain()
    frames = [frame for frame in bench.frames if isinstance(frame, PromptScores)]

    assert max(sum(len(score.top) + 1 for score in frame.scores) for frame in frames) <= 13
    assert [score.token_id for score in bench.scores("a")] == list(PROMPTS["a"])


def test_more_scores_than_memory_is_kept_for_are_refused(open_bench, llama, monkeypatch):
    """A prompt's log-probabilities are bounded before any is computed."""
    monkeypatch.setattr(sequence_module, "MAX_PROMPT_SCORES", 60)
    bench = open_bench(llama)
    bench.submit("a", echo=True, logprobs=1)  # 46 of 23 tokens

    with pytest.raises(InvalidRequest, match="69 log-probabilities of the prompt; at most 60"):
        bench.submit("b", PROMPTS["a"], echo=True, logprobs=2)
    bench.drain()


def test_a_scored_chunk_has_no_more_logits_than_are_reserved(open_bench, llama, monkeypatch):
    """Chunks of a scored prompt are as short as the workspace that is reported for their logits."""
    monkeypatch.setattr(slot_model, "SCORED_LOGITS", 128 * 6)
    recorded = Recorded(llama)
    bench = open_bench(recorded, chunk_tokens=1000)
    bench.submit("a", echo=True, logprobs=0, max_tokens=0)
    bench.drain()

    assert max(recorded.chunks) == 6
    assert llama.memory().workspace_bytes - llama._workspace_bytes == 128 * 6 * 4


class Recorded:
    """A model whose prefilled chunks are noted."""

    def __init__(self, model):
        self._model = model
        self.chunks = []

    def __getattr__(self, name):
        return getattr(self._model, name)

    def prefill(self, slot, token_ids, **options):
        self.chunks.append(len(token_ids))
        return self._model.prefill(slot, token_ids, **options)


@pytest.mark.parametrize("kernels", ["compiled", "eager"])
def test_a_sequence_that_crosses_the_switch_is_prefilled_again_in_chunks(
    open_bench, tiny_model, tiny_answers, kernels
):
    """LongRoPE's other factors are applied step by step, and a running request goes on meanwhile.

    Regression: the whole sequence was recomputed in one step, which stopped all other requests.
    """
    model = Recorded(tiny_model("phi3-longrope", kernels=kernels))
    expected = next(each for each in tiny_answers("phi3-longrope") if len(each.prompt) == 23)
    bench = open_bench(model)
    bench.submit("running", PROMPTS["b"], temperature=0, max_tokens=17)
    bench.step(2)
    bench.submit("a", expected.prompt, temperature=0, max_tokens=len(expected.tokens))
    while not bench.tokens("a"):
        bench.step()
    before = len(bench.tokens("running"))
    while len(bench.tokens("a")) < 3:
        bench.step()
    meanwhile = len(bench.tokens("running")) - before
    bench.drain()

    assert bench.tokens("a") == expected.tokens
    assert max(model.chunks) <= 8
    assert sum(model.chunks) >= 5 + 23 + 25
    assert meanwhile >= 3


@pytest.mark.parametrize("kernels", ["compiled", "eager"])
def test_a_long_prompt_is_rotated_with_long_factors_from_its_first_chunk(
    open_bench, tiny_model, tiny_answers, kernels
):
    """A prompt beyond LongRoPE's switch is prefilled once, and answered as by transformers."""
    model = Recorded(tiny_model("phi3-longrope", kernels=kernels))
    expected = next(each for each in tiny_answers("phi3-longrope") if len(each.prompt) == 40)
    bench = open_bench(model)
    bench.submit("a", expected.prompt, temperature=0, max_tokens=len(expected.tokens))
    bench.drain()

    assert bench.tokens("a") == expected.tokens
    assert sum(model.chunks) == 40


def test_keys_and_values_are_reserved_once(open_bench, llama):
    """A request's buffer has room for prompt and answer from its first chunk on.

    Regression: it grew by half, and a long sequence was copied within one step.
    """
    bench = open_bench(llama)
    bench.submit("a", max_tokens=100)
    bench.step()
    reserved = llama.memory().slots_bytes
    bench.drain()

    assert bench.finished("a").state.reserved_bytes == reserved


def test_an_unnamed_length_is_the_default(open_bench, llama):
    """Without `max_tokens` the answer has the host's default length."""
    bench = open_bench(llama)
    bench.submit("a", max_tokens=None, max_answer_tokens=7)

    assert bench.drain().finished("a").completion_tokens == 7


def test_the_context_can_be_filled_to_the_last_token(open_bench, model):
    """Prompt and answer together may be as long as the context."""
    bench = open_bench(model)
    bench.submit("a", max_tokens=None)
    finished = bench.drain().finished("a")

    assert finished.reason == "length"
    assert finished.prompt_tokens + finished.completion_tokens == model.context_tokens


class Faulty:
    """A model whose next call fails as told; everything else is the real one's."""

    def __init__(self, model):
        self._model = model
        self.fault = None

    def __getattr__(self, name):
        return getattr(self._model, name)

    def _strike(self, logits):
        if isinstance(self.fault, Exception):
            raise self.fault
        if self.fault is not None:
            logits[self.fault] = torch.nan
        self.fault = None
        return logits

    def prefill(self, *arguments, **options):
        return self._strike(self._model.prefill(*arguments, **options))

    def decode(self, *arguments):
        return self._strike(self._model.decode(*arguments))


def test_logits_that_are_not_numbers_fail_their_request_only(open_bench, llama):
    """NaN in one row ends that request; the batch goes on."""
    faulty = Faulty(llama)
    bench = open_bench(faulty)
    for name in ("a", "b"):
        bench.submit(name, temperature=0)
    while len(bench.tokens("b")) < 3 or len(bench.tokens("a")) < 3:
        bench.step()
    faulty.fault = 0  # the row of the request that was read first
    bench.drain()

    failed = bench.failures()
    assert [failure.code for failure in failed.values()] == ["engine_failed"]
    survivor = ({"a", "b"} - set(failed)).pop()
    assert bench.tokens(survivor) == alone(llama, survivor, temperature=0)
    assert bench.used() == 0


def test_a_prompt_whose_logits_are_not_numbers_fails(open_bench, llama):
    """NaN after a prompt ends the request without a token."""
    faulty = Faulty(llama)
    bench = open_bench(faulty, chunk_tokens=1000)
    faulty.fault = slice(None)
    bench.submit("a", logprobs=1, echo=True)
    bench.drain()

    assert bench.failures()["a"].code == "engine_failed"
    assert bench.events["a"] == []


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "memory"),
        (MemoryError(), "memory"),
        (IndexError("secret path"), "IndexError"),
    ],
)
def test_a_failing_prompt_is_that_requests_own_affair(open_bench, llama, fault, words):
    """A failed prefill ends its request; a running one is untouched and the slot is free."""
    faulty = Faulty(llama)
    bench = open_bench(faulty)
    bench.submit("a", temperature=0)
    bench.step(4)
    bench.submit("b")
    faulty.fault = fault
    while not bench.failures():
        bench.step()
    faulty.fault = None
    bench.drain()

    assert list(bench.failures()) == ["b"]
    assert words in bench.failures()["b"].message
    assert "secret" not in bench.failures()["b"].message
    assert bench.tokens("a") == alone(llama, "a", temperature=0)
    assert bench.used() == 0


def test_a_failed_batch_does_not_end_the_loop(open_bench, llama):
    """Requests of a decode step that failed are told so; the next request is answered."""
    faulty = Faulty(llama)
    bench = open_bench(faulty)
    bench.submit("a", max_tokens=50)
    bench.step(5)
    faulty.fault = RuntimeError("boom")
    bench.step()
    faulty.fault = None
    bench.submit("b", temperature=0)
    bench.drain()

    assert list(bench.failures()) == ["a"]
    assert bench.tokens("b") == alone(llama, "b", temperature=0)


def test_an_unloaded_model_fails_its_requests_and_the_later_ones(open_bench, llama):
    """Running and late requests are failed, and the memory is reported free."""

    class Kept(Faulty):
        def close(self):
            """The fixture's model is used by other tests."""

    bench = open_bench(Kept(llama))
    bench.submit("a")
    bench.step(2)
    bench.loop.remove_model(llama.resolved.id)
    bench.submit("b")
    bench.step()

    assert {failure.code for failure in bench.failures().values()} == {"engine_failed"}
    assert set(bench.failures()) == {"a", "b"}
    assert Unloaded(llama.resolved.id) in bench.frames
    assert bench.used() == 0


def test_one_frame_carries_a_step(open_bench, llama):
    """All events of a step travel together."""
    bench = open_bench(llama)
    for name in PROMPTS:
        bench.submit(name, max_tokens=20)
    while len(bench.tokens("c")) < 2:
        bench.step()
    before = len(bench.frames)
    bench.step()
    frames = [frame for frame in bench.frames[before:] if isinstance(frame, Events)]

    assert [len(frame.items) for frame in frames] == [4]
    bench.drain()


def test_memory_is_reported_when_work_begins_and_ends(open_bench, llama):
    """However short an answer is, and however soon after the last, its slot is seen taken."""
    used, idle = [], threading.Semaphore(0)

    def emit(frame):
        if isinstance(frame, MemoryReport):
            used.append(frame.memory.slots_used)
            if not used[-1]:
                idle.release()

    bench = open_bench(llama)
    bench.loop = EngineLoop(emit)
    bench.loop.add_model(llama, chunk_tokens=8)
    thread = threading.Thread(target=bench.loop.run)
    thread.start()
    assert idle.acquire(timeout=20)  # what it holds before anybody asks
    for name in ("b", "c", "d"):
        bench.submit(name, max_tokens=2)
        assert idle.acquire(timeout=20)
    bench.loop.stop()
    thread.join(5)

    assert used == [0, *[1, 0] * 3]


def test_the_thread_sleeps_wakes_reports_and_stops(open_bench, llama):
    """Run in a thread: an idle loop takes a request, reports free memory, and ends when told."""
    done = threading.Event()
    frames = []

    def emit(frame):
        frames.append(frame)
        answered = any(isinstance(each, Events) for each in frames)
        if isinstance(frame, MemoryReport) and frame.memory.slots_used == 0 and answered:
            done.set()

    bench = open_bench(llama)
    bench.loop = EngineLoop(emit)
    bench.loop.add_model(llama, chunk_tokens=8)
    thread = threading.Thread(target=bench.loop.run)
    thread.start()
    bench.submit("a")
    assert done.wait(20)
    bench.loop.stop()
    thread.join(5)

    assert not thread.is_alive()
    assert sum(len(frame.items) for frame in frames if isinstance(frame, Events)) == 14
