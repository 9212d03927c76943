"""The one path: whatever ends a request, it has one record and leaves nothing behind."""

import asyncio
import contextlib
import random
import time

import pytest

from service.core.errors import (
    ConfigError,
    ContextOverflow,
    DeadlineExceeded,
    Draining,
    EngineDied,
    EngineFailed,
    ModelNotFound,
    ModelNotReady,
    Overloaded,
    PoisonedRequest,
    StoreUnavailable,
)
from service.core.events import Delta, Finished, Started
from service.core.metrics import derive
from service.core.routes.route import Arm, FallbackRoute, WeightedRoute
from support.waiting import until

CHAIN = {"chain": FallbackRoute(arms=(Arm(model="one"), Arm(model="two")))}


def kinds(events):
    return [type(event) for event in events]


async def test_events_come_in_order_and_the_record_is_final_with_the_last(bench):
    """At `Finished` the record is final and the place in the queue free; closing submits it."""
    b = bench()
    async with b.chat.open(b.request(max_tokens=2)) as answer:
        events = []
        async for event in answer:
            events.append(event)
            if isinstance(event, Finished):
                assert (answer.record.phase, answer.record.status) == ("final", "ok")
                assert b.sink.finals == []
                assert b.pool.requests == b.engines["one"].running == 0
    assert kinds(events) == [Started, Delta, Delta, Finished]
    assert [record.status for record in b.sink.finals] == ["ok"]


async def test_no_event_goes_out_before_the_accepted_record_is_on_disk(bench, settle):
    """The engine works meanwhile, but the client waits for the disk."""
    b = bench()
    b.sink.may_flush.clear()
    async with b.chat.open(b.request()) as answer:
        first = asyncio.create_task(anext(answer))
        await asyncio.sleep(0.05)
        await settle()
        assert b.engines["one"].running == 1
        assert not first.done()
        b.sink.may_flush.set()
        assert isinstance(await first, Started)


async def test_a_disk_that_takes_no_record_refuses_the_answer(bench):
    """Nothing is answered unrecorded, and the engine is let go."""
    b = bench()
    await b.ask()

    async def full():
        raise StoreUnavailable("disk full")

    b.sink.flushed = full
    with pytest.raises(StoreUnavailable):
        await b.ask()
    assert b.sink.finals[-1].error_code == "store_unavailable"
    assert (b.engines["one"].running, b.pool.requests) == (0, 0)


async def test_leaving_early_cancels_the_engine_and_records_it(bench):
    """The record is made before anything is awaited, and keeps what was answered."""
    b = bench()
    async with b.chat.open(b.request(max_tokens=50)) as answer:
        async for event in answer:
            if isinstance(event, Delta):
                break
    assert (b.engines["one"].running, b.pool.requests) == (0, 0)
    (record,) = b.sink.finals
    assert (record.status, record.completion_tokens) == ("cancelled", 1)


async def test_an_answer_that_nobody_reads_is_recorded_too(bench):
    """A client can leave before the first event was asked for."""
    b = bench()
    async with b.chat.open(b.request()):
        pass
    assert [record.status for record in b.sink.finals] == ["cancelled"]


async def test_a_cancelled_task_leaves_a_record(bench, settle):
    """A task cancelled while it waits for the engine, as on disconnect."""
    b = bench()
    await b.ask()
    b.engines["one"].may_step.clear()
    task = asyncio.create_task(b.ask())
    while not b.engines["one"].running:
        await settle()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert b.sink.finals[-1].status == "cancelled"
    assert (b.engines["one"].running, b.pool.requests) == (0, 0)


@pytest.mark.parametrize("error", [EngineFailed("host died"), ZeroDivisionError()])
async def test_an_engine_that_fails_in_the_middle_is_recorded(bench, error):
    """Our errors and bugs alike: one failed record, and the error goes on."""
    b = bench()
    b.prepare["one"] = lambda engine: (
        setattr(engine, "error", error),
        setattr(engine, "fail_after_tokens", 2),
    )
    with pytest.raises(type(error)):
        await b.ask()
    (record,) = b.sink.finals
    assert (record.status, record.completion_tokens) == ("failed", 2)
    assert b.pool.requests == 0


async def test_a_request_that_killed_its_engine_twice_is_refused(bench):
    """Only then, only that one, and as the client's own fault; others are answered."""
    b = bench()
    b.prepare["one"] = lambda engine: setattr(engine, "error", EngineDied("killed"))
    for _ in range(2):
        with pytest.raises(EngineDied):
            await b.ask()
    b.engines["one"].error = None
    with pytest.raises(PoisonedRequest):
        await b.ask()
    assert (b.sink.finals[-1].status, b.sink.finals[-1].error_code) == (
        "refused",
        "poisoned_request",
    )
    assert isinstance((await b.ask(max_tokens=4))[-1], Finished)
    assert isinstance((await b.ask("two"))[-1], Finished)


async def test_bystanders_of_a_death_are_not_suspected(bench):
    """The engine knows whom it was not computing for."""
    b = bench()
    b.prepare["one"] = lambda engine: setattr(engine, "error", EngineDied("killed", suspect=False))
    for _ in range(3):
        with pytest.raises(EngineDied):
            await b.ask()


async def test_an_answer_clears_a_suspect(bench):
    """Two deaths with an answer in between are chance."""
    b = bench()
    await b.ask()
    for error in (EngineDied("a"), None, EngineDied("b"), None):
        b.engines["one"].error = error
        with contextlib.suppress(EngineDied):
            await b.ask()
    assert b.sink.finals[-1].status == "ok"


async def test_suspects_run_one_at_a_time(bench, settle):
    """So that a second death has one culprit; requests without suspicion go on."""
    b = bench()
    await b.ask()
    engine = b.engines["one"]
    engine.error = EngineDied("killed")
    for tokens in (2, 3):
        with pytest.raises(EngineDied):
            await b.ask(max_tokens=tokens)
    engine.error = None
    engine.may_step.clear()
    asked = [asyncio.create_task(b.ask(max_tokens=tokens)) for tokens in (2, 3, 4)]
    await settle()
    assert engine.running == 2
    engine.may_step.set()
    answers = await asyncio.gather(*asked)
    assert [answer[-1].completion_tokens for answer in answers] == [2, 3, 4]


async def test_an_engine_that_ends_without_finishing_has_failed(bench):
    """A stream never just stops."""
    b = bench()
    b.prepare["one"] = lambda engine: setattr(engine, "ends_early", True)
    with pytest.raises(EngineFailed, match="before the answer was complete"):
        await b.ask()
    assert b.sink.finals[-1].error_code == "engine_failed"


async def test_an_unknown_model_leaves_a_refused_record(bench):
    """The refusal is counted like every request."""
    b = bench()
    with pytest.raises(ModelNotFound):
        b.chat.open(b.request("nobody"))
    (record,) = b.sink.finals
    assert (record.status, record.error_code, record.model) == (
        "refused", "model_not_found", None,
    )  # fmt: skip


async def test_the_first_request_is_cold_and_says_how_long_it_waited(bench):
    """Time spent on a load is kept apart, and the next request is warm."""
    b = bench()
    await b.ask()
    await b.ask()
    cold, warm = b.sink.finals
    assert cold.cold
    assert cold.load_ns > 0
    assert (warm.cold, warm.load_ns) == (False, None)


@pytest.mark.parametrize(
    "error", [ModelNotReady("x"), Overloaded("x"), ContextOverflow("x"), EngineFailed("x")]
)
async def test_a_route_falls_to_its_next_arm_before_the_first_event(bench, error):
    """What the first arm refused, the second answers; the record says both."""
    b = bench(routes=CHAIN)
    b.prepare["one"] = lambda engine: setattr(engine, "error", error)
    async with b.chat.open(b.request("chain")) as answer:
        assert answer.model is None
        assert isinstance([event async for event in answer][-1], Finished)
        assert answer.model == "two"
    (record,) = b.sink.finals
    assert (record.status, record.model, record.route) == ("ok", "two", "fallback")
    assert record.route_reason.endswith(f"one: {error.code}")
    assert b.pool.requests == 0


async def test_a_route_whose_arms_all_refuse_fails_with_the_last_error(bench):
    """Nothing is hidden: the error is the last arm's, the reason names the first's."""
    b = bench(routes=CHAIN)
    b.prepare["one"] = lambda engine: setattr(engine, "load_error", ModelNotReady("no memory"))
    b.prepare["two"] = lambda engine: setattr(engine, "error", Overloaded("full"))
    await b.pool.start()
    with pytest.raises(Overloaded):
        await b.ask("chain")
    (record,) = b.sink.finals
    assert record.status == "refused"
    assert record.route_reason == "first arm; one: model_not_ready"
    await b.pool.aclose()


async def test_an_answer_that_began_never_changes_its_arm(bench):
    """After the first token a failure is a failure: half an answer cannot be taken back."""
    b = bench(routes=CHAIN)
    b.prepare["one"] = lambda engine: (
        setattr(engine, "error", EngineFailed("died")),
        setattr(engine, "fail_after_tokens", 1),
    )
    with pytest.raises(EngineFailed):
        await b.ask("chain")
    assert "two" not in b.engines


async def test_a_route_falls_to_its_next_arm_after_a_prefill_that_failed(bench):
    """Nothing was answered yet, but the first arm's `Started` kept the request from the second."""
    b = bench(routes=CHAIN)
    b.prepare["one"] = lambda engine: (
        setattr(engine, "error", EngineFailed("died")),
        setattr(engine, "fail_after_tokens", 0),
    )
    await b.pool.start()
    events = await b.ask("chain", max_tokens=1)
    await b.pool.aclose()
    assert kinds(events) == [Started, Delta, Finished]
    (record,) = b.sink.finals
    assert (record.status, record.model) == ("ok", "two")
    assert record.route_reason == "first arm; one: engine_failed"
    assert record.scheduled_ns == events[0].scheduled_ns
    assert (b.engines["one"].running, b.pool.requests) == (0, 0)


async def test_a_weighted_route_stops_sending_to_an_arm_that_fails(bench):
    """Every second request failed for as long as the arm was broken."""
    b = bench(routes={"ab": WeightedRoute(arms=(Arm(model="one"), Arm(model="two")))})
    b.prepare["one"] = lambda engine: setattr(engine, "error", EngineFailed("broken"))
    await b.pool.start()
    failures = 0
    for _ in range(40):
        try:
            await b.ask("ab")
        except EngineFailed:
            failures += 1
    await b.pool.aclose()
    assert failures == 1


async def test_a_weighted_route_tells_who_answered(bench):
    """A route with one possible arm is settled from the start."""
    route = WeightedRoute(arms=(Arm(model="three"), Arm(model="two", weight=1e-9)))
    b = bench(routes={"ab": route})
    async with b.chat.open(b.request("ab", sticky_key="ann")) as answer:
        assert answer.model == "three"
        await anext(answer)
    assert b.sink.finals[0].requested_model == "ab"


@pytest.mark.parametrize(
    ("routes", "message"),
    [
        ({"one": FallbackRoute(arms=(Arm(model="two"),))}, "has the id of a model"),
        ({"r": FallbackRoute(arms=(Arm(model="nobody"),))}, "names the model nobody"),
    ],
)
async def test_wrong_routes_are_found_at_the_start(bench, routes, message):
    """A typing error in the configuration is no surprise of the first request."""
    with pytest.raises(ConfigError, match=message):
        bench(routes=routes)


async def test_random_cancellation_leaves_no_request_behind(bench):
    """200 requests cancelled at random points: every record once, every place free."""
    b = bench(max_queued_requests=500)
    await b.ask()
    draws = random.Random(7)

    async def victim(number):
        task = asyncio.create_task(b.ask(request_id=f"v{number}", max_tokens=20))
        for _ in range(draws.randrange(60)):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    await asyncio.gather(*(victim(number) for number in range(200)))
    ids = [record.request_id for record in b.sink.finals if record.request_id[0] == "v"]
    assert sorted(ids) == sorted(
        {record.request_id for record in b.sink.records if record.request_id[0] == "v"}
    )
    assert len({record.status for record in b.sink.finals}) > 1
    assert (b.pool.requests, b.engines["one"].running) == (0, 0)
    assert repr(b.gate) == "<Gate inside=0 alone=False waiting=0>"


async def test_waiting_for_the_gate_is_queue_time(bench):
    """It was counted as preprocessing, which no histogram shows."""
    b = bench()
    await b.ask()
    async with b.gate.exclusive(max_wait_s=1):
        asked = asyncio.create_task(b.ask())
        await asyncio.sleep(0.05)
    await asked
    record = b.sink.finals[-1]
    times = derive(record)
    assert times.queue_ms > 45
    assert times.preprocess_ms < 40
    parts = (times.preprocess_ms, times.queue_ms, times.prefill_ms, times.decode_ms)
    assert sum(parts) == pytest.approx(times.e2e_ms)


async def test_waiting_for_a_load_is_queue_time_and_shown_apart(bench, settle):
    """`load_ms` is a part of it."""
    b = bench()
    b.prepare["one"] = lambda engine: engine.may_load.clear()
    asked = asyncio.create_task(b.ask())
    await until(lambda: "one" in b.engines)
    await asyncio.sleep(0.05)
    b.engines["one"].may_load.set()
    await asked
    times = derive(b.sink.finals[-1])
    assert times.queue_ms >= times.load_ms > 45


async def test_a_request_whose_time_is_up_before_it_ran_is_dropped(bench):
    """The engine never sees it."""
    b = bench()
    await b.ask()
    late = b.request(deadline_ns=time.monotonic_ns() - 1)
    with pytest.raises(DeadlineExceeded):
        await anext(b.chat.open(late))
    assert (b.sink.finals[-1].status, b.sink.finals[-1].error_code) == (
        "failed",
        "deadline_exceeded",
    )
    assert b.engines["one"].most_running == 1
    assert b.pool.requests == 0


async def test_an_answer_past_its_deadline_is_cancelled_in_its_engine(bench):
    """A server that hung was waited for without end."""
    b = bench()
    await b.ask()
    b.engines["one"].may_step.clear()
    asked = b.request(deadline_ns=time.monotonic_ns() + 50_000_000)
    async with b.chat.open(asked) as answer:
        assert isinstance(await anext(answer), Started)
        with pytest.raises(DeadlineExceeded, match=r"not complete within 0\.0"):
            await anext(answer)
    assert (b.sink.finals[-1].status, b.sink.finals[-1].error_code) == (
        "failed",
        "deadline_exceeded",
    )
    assert (b.engines["one"].running, b.pool.requests) == (0, 0)


async def test_a_deadline_holds_while_a_model_loads(bench):
    """Wherever the request waits."""
    b = bench()
    b.prepare["one"] = lambda engine: engine.may_load.clear()
    asked = b.request(deadline_ns=time.monotonic_ns() + 50_000_000)
    with pytest.raises(DeadlineExceeded):
        await anext(b.chat.open(asked))
    assert b.pool.requests == 0


@pytest.mark.parametrize("queued", [False, True])
async def test_interrupted_answers_tell_their_readers_and_their_records(bench, settle, queued):
    """A shutdown cancelled them, as if their clients had left."""
    b = bench()
    await b.ask()
    b.engines["one"].may_step.clear()
    async with b.gate.exclusive(max_wait_s=1) if queued else contextlib.nullcontext():
        asked = asyncio.create_task(b.ask())
        await until(lambda: b.pool.requests == 1)
        await settle()
        b.chat.interrupt()
        with pytest.raises(Draining) as caught:
            await asked
    assert caught.value.retry_after_s
    record = b.sink.finals[-1]
    assert (record.status, record.error_code) == ("interrupted", "draining")
    assert (b.engines["one"].running, b.pool.requests) == (0, 0)


async def test_an_interrupted_answer_whose_reader_is_busy_ends_at_the_next_event(bench):
    """Nobody waited for it when the interruption came."""
    b = bench()
    async with b.chat.open(b.request(max_tokens=50)) as answer:
        await anext(answer)
        b.chat.interrupt()
        with pytest.raises(Draining):
            await anext(answer)
    assert b.sink.finals[-1].status == "interrupted"
    assert (b.engines["one"].running, b.pool.requests) == (0, 0)
