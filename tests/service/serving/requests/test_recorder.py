"""Every request leaves exactly one final record, whatever ends it."""

import asyncio

import msgspec
import pytest

from service.core.chat import ChatRequest, Sampling, TextPrompt
from service.core.errors import (
    ContextOverflow,
    Draining,
    EngineFailed,
    ModelNotFound,
    ModelNotReady,
    Overloaded,
)
from service.core.events import Delta, Finished, ModelBuild, Started, StateBytes
from service.core.routes.decision import Decision
from service.serving.requests.recorder import Recorder, code_of, status_of
from support.clock import Clock


class Sink:
    def __init__(self):
        self.records = []

    def submit(self, record):
        self.records.append(record)

    async def flushed(self):
        pass


class Observer:
    def __init__(self):
        self.seen = []

    def started(self, record):
        self.seen.append(("started", record.status))

    def generated(self, record, tokens):
        self.seen.append(("generated", tokens))

    def finished(self, record, metrics):
        self.seen.append(("finished", record.status))
        self.metrics = metrics


def request(**fields):
    known = {"prompt": TextPrompt("hi"), "accepted_ns": 100, "accepted_at_ns": 5}
    return ChatRequest(request_id="req-1", model="m", **(known | fields))


def delta(text, at_ns, *token_ids):
    return Delta(text=text, token_ids=token_ids, at_ns=at_ns)


STARTED = Started(queued_ns=110, scheduled_ns=120, prompt_tokens=7, cached_tokens=2)
FINISHED = Finished(
    reason="stop",
    text="!",
    prompt_tokens=7,
    completion_tokens=3,
    first_ns=130,
    last_ns=170,
    state=StateBytes(ssm_state_bytes=9),
    build=ModelBuild(
        weights_sha256=None, dtype="float32", quantization=None, engine="e", engine_version="1",
        device="cpu", kernel_path="k",
    ),
)  # fmt: skip


@pytest.fixture
def sink():
    return Sink()


def recording_of(sink, **options):
    asked = options.pop("request", request())
    return Recorder(sink, clock_ns=lambda: 200, **options).accept(asked)


def test_the_accepted_record_is_submitted_first(sink):
    """Before anything happens, the request is on its way to disk."""
    recording_of(sink)
    assert [(r.phase, r.status, r.closed_ns) for r in sink.records] == [
        ("accepted", "running", None)
    ]


def test_finished_makes_the_record_final(sink):
    """Stamps, counts, bytes and build are the engine's own."""
    recording = recording_of(sink)
    for event in (STARTED, delta("hé", 130, 1), delta("", 150, 2), delta("y", 170, 3), FINISHED):
        recording.observe(event)
    recording.finish("cancelled")
    record = sink.records[-1]
    assert (record.phase, record.status, record.finish_reason) == ("final", "ok", "stop")
    assert (record.first_ns, record.last_ns, record.closed_ns) == (130, 170, 200)
    assert (record.completion_tokens, record.completion_bytes) == (3, len("héy!".encode()))
    assert record.state.ssm_state_bytes == 9


def test_inter_token_latencies_are_percentiles_of_gaps(sink):
    """Four tokens that came together share the gap before them equally."""
    recording = recording_of(sink)
    recording.observe(STARTED)
    recording.observe(delta("a", 1000, 1))
    recording.observe(delta("b", 1100, 2))
    recording.observe(delta("cdef", 1300, 3, 4, 5, 6))
    record = recording.finish("ok")
    assert (record.itl_p50_ns, record.itl_p99_ns, record.itl_max_ns) == (50, 100, 100)


def test_one_token_has_no_latency_between_tokens(sink):
    """Unknown is None, never 0."""
    recording = recording_of(sink)
    recording.observe(delta("a", 1000, 1))
    assert recording.finish("ok").itl_p50_ns is None


def test_a_cancelled_request_keeps_what_it_had(sink):
    """Counts and stamps come from the deltas when no Finished came."""
    recording = recording_of(sink)
    for event in (STARTED, delta("ab", 130, 1), delta("c", 190, 2)):
        recording.observe(event)
    record = recording.finish("cancelled")
    assert (record.completion_tokens, record.completion_bytes) == (2, 3)
    assert (record.first_ns, record.last_ns, record.prompt_tokens) == (130, 190, 7)


def test_a_request_that_never_began_has_no_counts(sink):
    """Nothing is known of an answer that was refused."""
    record = recording_of(sink).fail(Overloaded("full"))
    assert (record.status, record.error_code) == ("refused", "overloaded")
    assert (record.completion_tokens, record.completion_bytes, record.first_ns) == (None,) * 3


def test_only_the_first_end_counts(sink):
    """Closing an answer after its end changes nothing."""
    recording = recording_of(sink)
    recording.observe(FINISHED)
    recording.finish("cancelled")
    recording.fail(EngineFailed("x"))
    assert [r.status for r in sink.records] == ["running", "ok"]


def test_observers_hear_of_the_beginning_and_of_one_end(sink):
    """Gauges rise and fall with the record."""
    observer = Observer()
    recording = recording_of(sink, observers=[observer])
    recording.observe(delta("a", 130, 1, 2))
    recording.observe(FINISHED)
    recording.finish("cancelled")
    assert observer.seen == [
        ("started", "running"),
        ("generated", 2),
        ("generated", 1),  # of three tokens that the engine told of at its end
        ("finished", "ok"),
    ]


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (asyncio.CancelledError(), "cancelled", None),
        (GeneratorExit(), "cancelled", None),
        (EngineFailed("x"), "failed", "engine_failed"),
        (ModelNotReady("x"), "failed", "model_not_ready"),
        (ZeroDivisionError(), "failed", "internal_error"),
        (Overloaded("x"), "refused", "overloaded"),
        (Draining("x"), "refused", "draining"),
        (ModelNotFound("x"), "refused", "model_not_found"),
        (ContextOverflow("x"), "refused", "context_length_exceeded"),
    ],
)
def test_every_end_has_its_status(error, status, code):
    """Refused means that nothing was started; failed means that we could not."""
    assert (status_of(error), code_of(error)) == (status, code)


def test_only_changed_sampling_is_recorded(sink):
    """A record shows what was asked for, not every default."""
    asked = request(sampling=Sampling(temperature=0.0, seed=3))
    assert recording_of(sink, request=asked).record.sampling == {"temperature": 0.0, "seed": 3}


def test_stop_strings_are_content(sink):
    """Text and tokens inside sampling parameters are kept only where contents are stored."""
    asked = request(sampling=Sampling(seed=3, stop=("my secret",), logit_bias={7: 1.0}))
    assert recording_of(sink, request=asked).record.sampling == {"seed": 3}
    stored = recording_of(sink, request=asked, store_content=True).record.sampling
    assert stored == {"seed": 3, "stop": ("my secret",), "logit_bias": {7: 1.0}}


def test_the_record_is_submitted_when_the_answer_is_closed(sink):
    """`closed_ns` is when the response was closed, not when its last event was made."""
    clock = Clock(170)
    recording = Recorder(sink, clock_ns=clock).accept(request())
    recording.observe(FINISHED)
    assert (recording.record.phase, recording.record.closed_ns) == ("final", None)
    assert len(sink.records) == 1
    clock.now = 900
    recording.finish("cancelled")
    assert [(r.status, r.closed_ns) for r in sink.records] == [("running", None), ("ok", 900)]


def test_waiting_before_the_engine_is_queueing(sink):
    """The stamp of the service's own queue stands; the engine's later one does not replace it."""
    recording = recording_of(sink)
    recording.queued(104)
    recording.queued(105)
    recording.observe(STARTED)
    assert recording.record.queued_ns == 104


def test_a_request_that_only_queued_has_no_answer(sink):
    """A request refused while it waited has no bytes of an answer."""
    recording = recording_of(sink)
    recording.queued(104)
    assert recording.fail(Overloaded("full")).completion_bytes is None


def test_names_that_clients_give_are_bounded(sink):
    """A megabyte of model name must not be stored with the record of its refusal."""
    asked = request(comparison_id="c" * 300, client_request_id="x" * 300)
    asked = msgspec.structs.replace(asked, model="m" * 1_000_000)
    record = recording_of(sink, request=asked).record
    lengths = map(len, (record.requested_model, record.client_request_id, record.comparison_id))
    assert list(lengths) == [256, 256, 256]


def test_metrics_are_derived_once(sink):
    """Observers get the same metrics that the answer shows."""
    observer = Observer()
    recording = recording_of(sink, observers=[observer])
    recording.observe(FINISHED)
    shown = recording.metrics
    recording.finish("cancelled")
    assert observer.metrics is shown


def test_content_is_not_stored_unless_switched_on(sink):
    """By default neither prompt nor answer is in the record."""
    recording = recording_of(sink)
    recording.observe(delta("secret", 130, 1))
    record = recording.finish("ok")
    assert (record.prompt_content, record.completion_content) == (None, None)


def test_content_is_stored_where_switched_on(sink):
    """Prompt and answer, also of a cancelled request."""
    recording = recording_of(sink, store_content=True)
    recording.observe(delta("ans", 130, 1))
    record = recording.finish("cancelled")
    assert (record.prompt_content, record.completion_content) == ("hi", "ans")


def test_falling_back_forgets_the_other_arms_load(sink):
    """A load that failed elsewhere is not this answer's cold start."""
    recording = recording_of(sink)
    recording.routed(Decision(arms=("a", "b"), policy="fallback", reason="first arm"))
    recording.fell_back("a", ModelNotReady("x"))
    assert recording.record.route_reason == "first arm; a: model_not_ready"
