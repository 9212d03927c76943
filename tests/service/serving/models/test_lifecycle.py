"""Models come and go within the budget, for requests and for operators."""

import asyncio
from contextlib import aclosing
from itertools import count

import pytest

from service.core.errors import DoesNotFit, EngineFailed, ModelNotReady, Overloaded
from service.core.routes.route import Arm, FallbackRoute
from service.serving.memory.measured import MeasuredBytes
from support.waiting import until

SIZES = {"one": 40, "two": 40, "three": 40}


def hold(engine):
    engine.may_step.clear()


def slow_load(engine):
    engine.may_load.clear()


def states(b):
    return {name: b.pool.status(name).state for name in SIZES}


async def test_fifty_first_requests_cause_one_load(bench):
    """They wait for the same load, also where it must first make room."""
    b = bench(sizes=SIZES, budget=350)
    await b.ask("two")
    await b.pool.load("three")
    b.opened = 0
    answers = await asyncio.gather(*(b.ask("one") for _ in range(50)))
    assert (len(answers), b.opened) == (50, 1)
    assert all(record.cold and record.status == "ok" for record in b.sink.finals[1:])
    assert b.pool.status("one").loads == 1


async def test_the_idle_model_goes_for_the_one_that_is_asked_for(bench):
    """The least recently used of two equals, and the memory is booked for the new one."""
    b = bench(sizes=SIZES, budget=100, clock_ns=count(0, 1000).__next__)
    await b.ask("one")
    await b.ask("two")
    await b.ask("three")
    assert states(b) == {"one": "unloaded", "two": "ready", "three": "ready"}
    assert b.engines["one"].closed
    assert b.pool.memory.used_bytes == 80
    assert b.pool.status("one").evictions == 1


async def test_memory_is_given_away_only_when_it_is_free(bench, settle):
    """The next load does not begin before the engine has closed."""
    b = bench(sizes=SIZES, budget=50)
    await b.ask("one")
    closing = asyncio.Event()
    closed = b.engines["one"].aclose

    async def slow_close():
        await closing.wait()
        await closed()

    b.engines["one"].aclose = slow_close
    asked = asyncio.create_task(b.ask("two"))
    await until(lambda: states(b)["one"] == "unloading")
    await settle()
    assert b.pool.memory.used_bytes == 40
    assert b.pool.status("two").progress.stage == "memory"
    closing.set()
    await asked
    assert states(b) == {"one": "unloaded", "two": "ready", "three": "unavailable"}


async def test_a_pinned_model_stays_and_the_refusal_names_it(bench):
    """Somebody may unpin it; then the same request is answered."""
    b = bench(sizes=SIZES, budget=50)
    await b.ask("one")
    b.pool.pin("one", pinned=True)
    with pytest.raises(DoesNotFit, match=r"two needs 40 B.* 10 B are free.*one \(40 B\)"):
        await b.ask("two")
    assert b.sink.finals[-1].error_code == "does_not_fit"
    assert b.sink.finals[-1].status == "refused"
    b.pool.pin("one", pinned=False)
    await b.ask("two")


async def test_a_model_that_never_fits_is_refused_with_numbers(bench):
    """Not even alone: nobody is unloaded for it, and nobody need try again."""
    b = bench(sizes={"one": 40, "two": 400}, budget=100)
    await b.ask("one")
    with pytest.raises(DoesNotFit, match="can never fit: raise `memory_budget`") as caught:
        await b.ask("two")
    assert caught.value.retry_after_s is None
    assert b.pool.status("one").state == "ready"
    assert b.pool.status("two").state == "failed"


async def test_a_busy_model_is_waited_for_and_newcomers_wait_their_turn(bench, settle):
    """Requests that came after the load that waits do not keep the busy model for ever."""
    b = bench(sizes={"one": 40, "two": 40}, budget=55)
    b.prepare["one"] = hold
    first = asyncio.create_task(b.ask("one"))
    await until(lambda: "one" in b.engines and b.engines["one"].running)
    other = asyncio.create_task(b.ask("two"))
    await until(lambda: b.pool.status("one").state == "unloading")
    b.prepare.clear()
    late = asyncio.create_task(b.ask("one"))
    await settle()
    assert b.engines["one"].running == 1
    b.engines["one"].may_step.set()
    await asyncio.gather(first, other, late)
    assert [record.model for record in b.sink.finals] == ["one", "two", "one"]
    assert b.pool.status("one").loads == 2


async def test_who_waits_for_memory_can_leave(bench, settle):
    """Its load is given up, and the model that was to go for it stays."""
    b = bench(sizes={"one": 40, "two": 40}, budget=55)
    b.prepare["one"] = hold
    first = asyncio.create_task(b.ask("one"))
    await until(lambda: "one" in b.engines and b.engines["one"].running)
    other = asyncio.create_task(b.ask("two"))
    await until(lambda: b.pool.status("one").state == "unloading")
    other.cancel()
    await asyncio.gather(other, return_exceptions=True)
    await settle()
    assert b.pool.status("one").state == "ready"
    assert b.pool.status("two").state == "unloaded"
    b.engines["one"].may_step.set()
    await first
    await b.ask("one")
    assert b.pool.status("one").loads == 1
    assert b.pool.memory.used_bytes == 40


async def test_a_full_line_for_memory_refuses(bench, settle):
    """The second that would wait is told to come again."""
    b = bench(sizes=SIZES, budget=55, max_waiting=1)
    b.prepare["one"] = hold
    first = asyncio.create_task(b.ask("one"))
    await until(lambda: "one" in b.engines and b.engines["one"].running)
    second = asyncio.create_task(b.ask("two"))
    await until(lambda: b.pool.status("one").state == "unloading")
    with pytest.raises(Overloaded, match="wait for memory"):
        await b.ask("three")
    b.engines["one"].may_step.set()
    await asyncio.gather(first, second)


async def test_requests_state_counts_and_is_given_back(bench):
    """However a request ends: whole, failed or cancelled."""
    b = bench(sizes=SIZES, budget=100)
    b.prepare["one"] = hold
    asked = asyncio.create_task(b.ask("one", max_tokens=30))
    await until(lambda: "one" in b.engines and b.engines["one"].running)
    assert b.pool.status("one").requests_state_bytes == 30
    assert b.pool.memory.used_bytes == 70
    asked.cancel()
    await asyncio.gather(asked, return_exceptions=True)
    assert b.pool.memory.used_bytes == 40
    b.engines["one"].may_step.set()
    b.engines["one"].error = EngineFailed("broken")
    with pytest.raises(EngineFailed):
        await b.ask("one", max_tokens=30)
    b.engines["one"].error = None
    await b.ask("one", max_tokens=30)
    assert b.pool.memory.used_bytes == 40


async def test_a_request_whose_state_does_not_fit_waits_for_others(bench, settle):
    """And one that asks for less overtakes it only where it takes nothing from it."""
    b = bench(sizes={"one": 40}, budget=100)
    b.prepare["one"] = hold
    first = asyncio.create_task(b.ask("one", max_tokens=30))
    await until(lambda: "one" in b.engines and b.engines["one"].running)
    large = asyncio.create_task(b.ask("one", max_tokens=50))
    await settle()
    small = asyncio.create_task(b.ask("one", max_tokens=20))
    await settle()
    assert b.engines["one"].running == 1
    assert b.pool.memory.used_bytes == 70
    b.engines["one"].may_step.set()
    await asyncio.gather(first, large, small)
    assert b.pool.memory.used_bytes == 40


async def test_idle_models_go_for_a_requests_state(bench):
    """Keys and values of a long answer may need a whole model's room."""
    b = bench(sizes=SIZES, budget=100)
    await b.ask("two")
    await b.ask("one", max_tokens=60)
    assert states(b)["two"] == "unloaded"


async def test_a_request_that_can_never_fit_is_refused(bench):
    """With the numbers and both ways out."""
    b = bench(sizes=SIZES, budget=100)
    with pytest.raises(DoesNotFit, match=r"request to one needs 61 B.*or lower `max_tokens`"):
        await b.ask("one", max_tokens=61)
    assert b.pool.memory.used_bytes == 40


async def test_what_was_measured_corrects_the_prediction(bench, tmp_path):
    """At once in the books, and at the next load beforehand, also after a restart."""
    measured = MeasuredBytes(tmp_path / "measured.json")
    b = bench(sizes=SIZES, budget=100, measured=measured)
    b.prepare["one"] = lambda engine: setattr(engine, "predicted_bytes", 10)
    await b.ask("one")
    status = b.pool.status("one")
    assert (status.predicted_bytes, status.measured_bytes) == (10, 40)
    assert b.pool.memory.used_bytes == 40

    again = bench(sizes=SIZES, budget=39, measured=MeasuredBytes(tmp_path / "measured.json"))
    again.prepare["one"] = b.prepare["one"]
    with pytest.raises(DoesNotFit, match="one needs 40 B"):
        await again.ask("one")


async def test_a_model_larger_than_predicted_makes_others_go(bench, caplog):
    """Nobody knew better; the next load knows."""
    b = bench(sizes=SIZES, budget=75)
    await b.ask("two")
    b.prepare["one"] = lambda engine: setattr(engine, "predicted_bytes", 10)
    await b.ask("one")
    await until(lambda: states(b)["two"] == "unloaded")
    assert b.pool.memory.used_bytes == 40

    assert "holds more than predicted" in caplog.text


async def test_a_failed_load_gives_its_room_back(bench):
    """Whatever the reason."""
    b = bench(sizes=SIZES, budget=100)
    b.prepare["one"] = lambda engine: setattr(engine, "load_error", ModelNotReady("broken"))
    with pytest.raises(ModelNotReady):
        await b.ask("one")
    assert b.pool.memory.used_bytes == 0


async def test_unloading_lets_running_requests_end(bench, settle):
    """Those that come meanwhile are answered by a new load."""
    b = bench()
    b.prepare["one"] = hold
    running = asyncio.create_task(b.ask("one"))
    await until(lambda: "one" in b.engines and b.engines["one"].running)
    unloading = asyncio.create_task(b.pool.unload("one", drain_s=60))
    await settle()
    assert not unloading.done()
    b.engines["one"].may_step.set()
    await asyncio.gather(running, unloading)
    assert b.pool.status("one").state == "unloaded"
    b.prepare.clear()
    await b.ask("one")
    assert b.pool.status("one").loads == 2


async def test_forced_unloading_waits_for_nobody(bench):
    """Who still runs is left to its engine, which fails it."""
    b = bench()
    b.prepare["one"] = hold
    running = asyncio.create_task(b.ask("one"))
    await until(lambda: "one" in b.engines and b.engines["one"].running)
    engine = b.engines["one"]
    await b.pool.unload("one", drain_s=0)
    assert engine.closed
    assert b.pool.status("one").state == "unloaded"
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_unloading_gives_up_a_load(bench):
    """Who waited for it is told."""
    b = bench(sizes=SIZES, budget=100)
    b.prepare["one"] = slow_load
    asked = asyncio.create_task(b.ask("one"))
    await until(lambda: "one" in b.engines)
    await b.pool.unload("one", drain_s=60)
    with pytest.raises(ModelNotReady, match="unloaded meanwhile"):
        await asked
    await until(lambda: b.engines["one"].closed)
    assert b.pool.memory.used_bytes == 0


async def test_loading_and_unloading_twice_is_once(bench):
    """Both are idempotent."""
    b = bench()
    await b.pool.unload("one", drain_s=1)
    await asyncio.gather(b.pool.load("one"), b.pool.load("one"))
    await b.pool.load("one")
    assert b.opened == 1
    await asyncio.gather(b.pool.unload("one", drain_s=1), b.pool.unload("one", drain_s=1))
    assert b.pool.status("one").state == "unloaded"


async def test_models_that_rest_too_long_are_unloaded(bench):
    """Pinned and busy ones are not."""
    now_ns = [0]
    b = bench(idle_ttl_s=10, clock_ns=lambda: now_ns[0])
    b.prepare["two"] = hold
    await b.ask("one")
    busy = asyncio.create_task(b.ask("two"))
    await until(lambda: "two" in b.engines and b.engines["two"].running)
    await b.ask("three")
    b.pool.pin("three", pinned=True)
    now_ns[0] = 9_000_000_000
    await b.pool.upkeep.unload_idle()
    assert states(b)["one"] == "ready"
    now_ns[0] = 10_000_000_000
    await b.pool.upkeep.unload_idle()
    await until(lambda: states(b)["one"] == "unloaded")
    assert states(b) == {"one": "unloaded", "two": "ready", "three": "ready"}
    b.engines["two"].may_step.set()
    await busy


async def test_a_route_goes_on_where_a_model_does_not_fit(bench):
    """The next arm answers."""
    routes = {"r": FallbackRoute(arms=(Arm(model="one"), Arm(model="two")))}
    b = bench(sizes={"one": 400}, budget=100, routes=routes)
    await b.ask("r")
    (record,) = b.sink.finals
    assert (record.model, record.status) == ("two", "ok")
    assert "one: does_not_fit" in record.route_reason


async def test_who_listens_is_told_how_models_stand_and_what_becomes_of_them(bench):
    """A snapshot first, then each change with its reason."""
    b = bench(sizes=SIZES, budget=50)
    await b.ask("one")
    async with aclosing(b.pool.changes()) as changes:
        first = await anext(changes)
        assert (first.event, first.model, first.state) == ("snapshot", "one", "ready")
        await b.ask("two")
        seen = []
        while not seen or seen[-1][:2] != ("two", "ready"):
            change = await anext(changes)
            seen.append((change.model, change.state, change.reason))
    assert ("one", "unloading", "to make room for two") in seen
    assert ("one", "unloaded", "to make room for two") in seen
    order = [(model, state) for model, state, _ in seen]
    assert order.index(("one", "unloaded")) < order.index(("two", "ready"))


async def test_a_reader_that_is_too_slow_is_dropped(bench):
    """Nobody waits for it, and it is told so after what it had."""
    b = bench()
    await b.ask("one")
    async with aclosing(b.pool.changes()) as changes:
        await anext(changes)
        for number in range(300):
            b.pool.pin("one", pinned=number % 2 == 0)
        with pytest.raises(Overloaded, match="not read in time"):
            [change async for change in changes]
    assert not b.pool.events.heard
