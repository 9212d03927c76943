"""Comparisons: same path, same records, one arm's trouble stays its own."""

import asyncio

import msgspec
import pytest

from service.core.chat import Message, Sampling
from service.core.errors import DoesNotFit, EngineFailed, InvalidRequest, ModelNotReady
from service.core.events import Finished
from service.serving.requests.compare import (
    ArmEvent,
    ArmResult,
    Compared,
    ComparedArm,
    CompareService,
    ComparisonRequest,
)


def comparison(*models, **fields):
    return ComparisonRequest(
        comparison_id="cmp-1",
        messages=(Message(role="user", content="hi"),),
        arms=tuple(ComparedArm(model=model, sampling=Sampling(max_tokens=4)) for model in models),
        **fields,
    )


async def events_of(b, asked):
    return [event async for event in CompareService(b.chat).run(asked)]


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
    from service.core.routing import Arm, FallbackRoute

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
