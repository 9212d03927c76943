"""Comparisons: same path, same records, one arm's trouble stays its own."""

import asyncio
import time

import msgspec
import pytest

from service.core.chat import Message, Sampling
from service.core.errors import (
    DeadlineExceeded,
    DoesNotFit,
    EngineFailed,
    FeatureDisabled,
    InvalidRequest,
    MachineBusy,
    ModelNotReady,
)
from service.core.events import Finished
from service.core.metrics import derive
from service.serving.gate import Gate
from service.serving.requests.compare import (
    ArmEvent,
    ArmResult,
    Compared,
    ComparedArm,
    CompareService,
    ComparisonRequest,
)
from support.waiting import until


def comparison(*models, max_tokens=4, **fields):
    return ComparisonRequest(
        comparison_id="cmp-1",
        messages=(Message(role="user", content="hi"),),
        arms=tuple(
            ComparedArm(model=model, sampling=Sampling(max_tokens=max_tokens)) for model in models
        ),
        **fields,
    )


async def events_of(b, asked, **options):
    return [event async for event in CompareService(b.chat, **options).run(asked)]


@pytest.mark.parametrize("mode", ["isolated", "concurrent"])
async def test_every_arm_answers_and_is_recorded(bench, mode):
    """Text, record with the comparison's id, and differences to the first arm."""
    b = bench()
    *_, whole = await events_of(b, comparison("one", "two", "one:int8", mode=mode))
    assert [arm.text for arm in whole.arms] == ["a b c d "] * 3
    assert {(r.comparison_id, r.endpoint) for r in b.sink.finals} == {("cmp-1", "compare")}
    assert sorted(record.arm for record in b.sink.finals) == [0, 1, 2]
    assert whole.arms[0].difference is None
    assert whole.arms[1].difference.state_bytes.absolute == 0
    assert (b.pool.requests, repr(b.gate)) == (0, "<Gate inside=0 alone=False waiting=0>")


async def test_events_name_their_arm_and_the_whole_comes_last(bench):
    """A client can draw columns from the stream alone."""
    events = await events_of(bench(), comparison("one", "two"))
    assert isinstance(events[-1], Compared)
    ended = [event.arm for event in events if isinstance(event, ArmResult)]
    finished = [
        event.arm
        for event in events
        if isinstance(event, ArmEvent) and isinstance(event.event, Finished)
    ]
    assert ended == finished == list(events[-1].order)


async def test_the_order_is_drawn_and_can_be_repeated(bench):
    """Equal seeds, equal orders; over seeds every arm comes first."""
    b = bench()
    firsts = set()
    for seed in range(12):
        asked = comparison("one", "two", "three", order_seed=seed)
        orders = {(await events_of(b, asked))[-1].order for _ in range(2)}
        assert len(orders) == 1
        firsts.add(orders.pop()[0])
    assert firsts == {0, 1, 2}


async def test_an_isolated_arm_runs_while_nothing_else_is_stepped(bench):
    """An ordinary request that comes meanwhile waits for the arm, and then is answered."""
    b = bench()
    await asyncio.gather(b.ask("one"), b.ask("two"), b.ask("three"))
    for name in ("one", "two"):
        b.engines[name].may_step.clear()
    comparing = asyncio.create_task(events_of(b, comparison("one", "two", order_seed=1)))
    await asyncio.sleep(0.01)
    plain = asyncio.create_task(b.ask("three"))
    await asyncio.sleep(0.01)
    assert sum(engine.running for engine in b.engines.values()) == 1
    assert b.engines["three"].running == 0
    for name in ("one", "two"):
        b.engines[name].may_step.set()
    assert len(await plain) == 7
    assert len((await comparing)[-1].arms) == 2


async def test_concurrent_arms_run_together_and_it_says_so(bench):
    """The caveat warns that the arms slowed each other down."""
    b = bench()
    await b.ask("one")
    asked = comparison("one", "one", mode="concurrent")
    whole = (await events_of(b, asked))[-1]
    assert b.engines["one"].most_running == 2
    assert any("at the same time" in caveat for caveat in whole.caveats)


@pytest.mark.parametrize("mode", ["isolated", "concurrent"])
async def test_an_arm_that_fails_stops_no_other(bench, mode):
    """Unknown, unloadable and dying arms are reported in their places."""
    b = bench(models=("good", "broken", "dying"))
    b.prepare["broken"] = lambda e: setattr(e, "load_error", ModelNotReady("no memory"))
    b.prepare["dying"] = lambda e: (
        setattr(e, "error", EngineFailed("died")),
        setattr(e, "fail_after_tokens", 2),
    )
    asked = comparison("good", "nobody", "broken", "dying", mode=mode)
    whole = (await events_of(b, asked))[-1]
    codes = [arm.error and arm.error.code for arm in whole.arms]
    assert codes == [None, "model_not_found", "model_not_ready", "engine_failed"]
    assert whole.arms[2].error.message == "no memory"
    assert (whole.arms[3].text, whole.arms[3].difference) == ("a b ", None)
    assert sorted(r.arm for r in b.sink.finals) == [0, 1, 2, 3]


async def test_without_a_first_answer_there_is_no_difference(bench):
    """Nothing is compared with nothing."""
    whole = (await events_of(bench(), comparison("nobody", "one")))[-1]
    assert whole.arms[1].error is None
    assert whole.arms[1].difference is None


async def test_a_route_cannot_be_compared(bench):
    """Which model it would be is not the caller's choice, so it says nothing."""
    from service.core.routes.route import Arm, FallbackRoute

    b = bench(routes={"r": FallbackRoute(arms=(Arm(model="one"),))})
    whole = (await events_of(b, comparison("r", "one")))[-1]
    assert "is a route" in whole.arms[0].error.message


@pytest.mark.parametrize("count", [1, 9])
async def test_the_number_of_arms_is_bounded(bench, count):
    """Two to eight."""
    with pytest.raises(InvalidRequest, match="2 to 8 arms"):
        await events_of(bench(), comparison(*["one"] * count))


@pytest.mark.parametrize("mode", ["isolated", "concurrent"])
async def test_closing_a_comparison_cancels_its_arms(bench, mode):
    """Every arm that began has a cancelled record, and the gate is open again."""
    b = bench()
    await asyncio.gather(b.ask("one"), b.ask("two"))
    for name in ("one", "two"):
        b.engines[name].may_step.clear()
    events = CompareService(b.chat).run(comparison("one", "two", mode=mode))
    await anext(events)
    await events.aclose()
    arms = [record for record in b.sink.finals if record.comparison_id]
    assert {record.status for record in arms} == {"cancelled"}
    assert len(arms) == (1 if mode == "isolated" else 2)
    assert (b.pool.requests, repr(b.gate)) == (0, "<Gate inside=0 alone=False waiting=0>")


async def test_a_reader_that_takes_nothing_does_not_hold_the_gate(bench):
    """The arm is measured at its own pace, whatever the client does."""
    b = bench()
    events = CompareService(b.chat).run(comparison("one", "two"))
    await anext(events)
    await asyncio.sleep(0.05)
    assert len(await asyncio.wait_for(b.ask("three"), 1)) == 7
    await events.aclose()


async def test_arms_clocks_start_with_the_arm(bench):
    """An arm that waits for its turn has no longer time to first token for it."""
    b = bench()
    await asyncio.gather(b.ask("one"), b.ask("two"))
    whole = (await events_of(b, comparison("one", "two")))[-1]
    first, second = (whole.arms[arm].record for arm in whole.order)
    assert second.accepted_ns > first.closed_ns
    assert msgspec.json.encode(whole)


async def test_isolated_arms_need_not_fit_beside_each_other(bench):
    """Each is loaded before its turn and stays until it has answered."""
    b = bench(sizes={"one": 40, "two": 40}, budget=50)
    *_, whole = await events_of(b, comparison("one", "two", "one"))
    assert [arm.text for arm in whole.arms] == ["a b c d "] * 3
    assert not any(record.cold for record in b.sink.finals)
    assert b.pool.memory.used_bytes == 40


async def test_an_isolated_arm_keeps_its_model_while_others_want_its_memory(bench):
    """What is measured is not told to leave, and what waits for its memory does not deadlock."""
    b = bench(sizes={"one": 40, "two": 40, "three": 40}, budget=50)
    asked = comparison("one", "two")
    others = [b.ask("three") for _ in range(4)]
    whole, *_ = await asyncio.gather(events_of(b, asked), *others)
    assert all(arm.error is None for arm in whole[-1].arms)
    assert all(record.status == "ok" for record in b.sink.finals)


async def test_an_isolated_arm_that_cannot_fit_says_so_in_numbers(bench):
    """And stops no other arm."""
    b = bench(sizes={"one": 40, "two": 400}, budget=50)
    *_, whole = await events_of(b, comparison("one", "two"))
    assert whole.arms[0].error is None
    assert whole.arms[1].error.code == "does_not_fit"
    assert "two needs 400 B" in whole.arms[1].error.message


async def test_concurrent_arms_that_do_not_fit_together_are_refused(bench):
    """In turn they would not be concurrent: the numbers say what is missing."""
    b = bench(sizes={"one": 40, "two": 40}, budget=70)
    with pytest.raises(DoesNotFit, match=r"need 80 B \(one 40 B, two 40 B\).*budget is 70 B"):
        await events_of(b, comparison("one", "two", mode="concurrent"))
    assert b.sink.records == []
    *_, whole = await events_of(b, comparison("one", "one", mode="concurrent"))
    assert all(arm.error is None for arm in whole.arms)


async def test_a_comparison_waits_only_so_long_for_a_quiet_machine(bench, settle):
    """It waited, and everybody behind it, until the longest running answer had ended."""
    b = bench(gate=Gate(max_stall_s=0.1))
    await asyncio.gather(b.ask("one"), b.ask("two"), b.ask("three"))
    b.engines["one"].may_step.clear()
    long = asyncio.create_task(b.ask("one"))
    await until(lambda: b.engines["one"].running)
    comparing = asyncio.create_task(events_of(b, comparison("two", "three"), max_wait_s=0.3))
    await settle()
    began_s = time.monotonic()
    await b.ask("three")
    assert time.monotonic() - began_s < 0.2
    with pytest.raises(MachineBusy, match="1 running") as caught:
        await comparing
    assert caught.value.retry_after_s >= 0.3
    (record,) = [each for each in b.sink.finals if each.comparison_id]
    assert (record.status, record.error_code) == ("refused", "machine_busy")
    b.engines["one"].may_step.set()
    await long
    assert (b.pool.requests, repr(b.gate)) == (0, "<Gate inside=0 alone=False waiting=0>")


async def test_a_comparison_that_leaves_while_it_waits_has_a_record(bench, settle):
    """It left none."""
    b = bench()
    await asyncio.gather(b.ask("one"), b.ask("two"))
    async with b.gate.shared():
        comparing = asyncio.create_task(events_of(b, comparison("one", "two")))
        await until(lambda: b.pool.requests == 1)
        await settle()
        comparing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await comparing
    (record,) = [each for each in b.sink.finals if each.comparison_id]
    assert record.status == "cancelled"
    assert b.pool.requests == 0


async def test_an_arm_that_waits_counts_against_its_models_queue(bench):
    """Sixty comparisons waited where one request was allowed."""
    b = bench(max_queued_requests=1)
    await b.ask("one")
    async with b.gate.shared():
        waiting = asyncio.create_task(events_of(b, comparison("one", "one")))
        await until(lambda: b.pool.requests == 1)
        *_, whole = await events_of(b, comparison("one", "one"))
        assert [arm.error.code for arm in whole.arms] == ["overloaded"] * 2
        assert all(arm.record.status == "refused" for arm in whole.arms)
    *_, whole = await waiting
    assert all(arm.error is None for arm in whole.arms)


async def test_an_isolated_arm_reserves_its_state_like_any_request(bench):
    """It ran without a reservation where it did not fit."""
    b = bench(sizes={"one": 40, "two": 40}, budget=50)
    *_, whole = await events_of(b, comparison("one", "two", max_tokens=11))
    assert [arm.error.code for arm in whole.arms] == ["does_not_fit"] * 2
    assert [arm.record.error_code for arm in whole.arms] == ["does_not_fit"] * 2


async def test_an_arm_beside_a_load_says_so(bench):
    """The load is not waited for, and what it cost the arm nobody knows."""
    b = bench()
    await asyncio.gather(b.ask("one"), b.ask("two"))
    b.prepare["three"] = lambda engine: engine.may_load.clear()
    load = asyncio.create_task(b.pool.load("three"))
    await until(lambda: "three" in b.engines)
    *_, whole = await events_of(b, comparison("one", "two"))
    b.engines["three"].may_load.set()
    await load
    assert "a model was loaded, or files were hashed, while an arm ran" in whole.caveats
    assert all(arm.disturbances for arm in whole.arms)
    *_, whole = await events_of(b, comparison("one", "two"))
    assert not any(arm.disturbances for arm in whole.arms)


async def test_an_arm_that_stalls_others_too_long_goes_on_beside_them(bench):
    """They waited for its end, however long its answer was."""
    b = bench(gate=Gate(max_stall_s=0.1))
    await asyncio.gather(b.ask("one"), b.ask("two"), b.ask("three"))
    for name in ("one", "two"):
        b.engines[name].may_step.clear()
    comparing = asyncio.create_task(events_of(b, comparison("one", "two")))
    await until(lambda: b.engines["one"].running or b.engines["two"].running)
    began_s = time.monotonic()
    assert len(await b.ask("three")) == 7
    assert 0.09 < time.monotonic() - began_s < 1
    for name in ("one", "two"):
        b.engines[name].may_step.set()
    *_, whole = await comparing
    words = "an arm ran beside requests that had waited for `compare.max_stall_s`"
    assert words in whole.caveats


async def test_an_arms_wait_is_no_part_of_its_times(bench):
    """Its clock starts when the machine is its own; the wait is told beside."""
    b = bench()
    await asyncio.gather(b.ask("one"), b.ask("two"))
    async with b.gate.shared():
        comparing = asyncio.create_task(events_of(b, comparison("one", "two")))
        await asyncio.sleep(0.05)
    *_, whole = await comparing
    first = whole.arms[whole.order[0]]
    assert first.waited_ns > 45_000_000
    assert derive(first.record).ttft_ms < 45
    assert not first.record.cold


@pytest.mark.parametrize("mode", ["isolated", "concurrent"])
async def test_a_comparison_past_its_deadline_fails_as_a_whole(bench, mode):
    """No arm answered in time."""
    b = bench()
    await asyncio.gather(b.ask("one"), b.ask("two"))
    for name in ("one", "two"):
        b.engines[name].may_step.clear()
    asked = comparison("one", "two", mode=mode, deadline_ns=time.monotonic_ns() + 50_000_000)
    with pytest.raises(DeadlineExceeded):
        await events_of(b, asked)
    arms = [each for each in b.sink.finals if each.comparison_id]
    assert {each.error_code for each in arms} == {"deadline_exceeded"}
    assert b.pool.requests == 0


async def test_an_arm_past_the_deadline_keeps_what_others_answered(bench):
    """What was measured is not thrown away."""
    b = bench()
    await asyncio.gather(b.ask("one"), b.ask("two"))
    b.engines["two"].may_step.clear()
    asked = comparison(
        "one", "two", mode="concurrent", deadline_ns=time.monotonic_ns() + 100_000_000
    )
    *_, whole = await events_of(b, asked)
    assert [arm.error and arm.error.code for arm in whole.arms] == [None, "deadline_exceeded"]


async def test_comparisons_can_be_switched_off(bench):
    """By the operator, whose setting is named."""
    with pytest.raises(FeatureDisabled, match=r"compare\.enabled"):
        await events_of(bench(), comparison("one", "two"), enabled=False)
