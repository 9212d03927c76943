"""Loads, unloads and requests that meet in the same moment."""

import asyncio

import pytest

from service.core.errors import EngineFailed, ModelNotReady, TriptychError
from support.waiting import until

SIZES = {"one": 40, "two": 40, "three": 40}


async def both(*works):
    """Outcomes of all, errors among them, within seconds."""
    async with asyncio.timeout(5):
        return await asyncio.gather(*works, return_exceptions=True)


def alive(outcomes):
    return [each for each in outcomes if isinstance(each, BaseException)
            and not isinstance(each, TriptychError)]  # fmt: skip


async def test_an_unload_and_a_load_at_once_end(bench):
    """Both return, and the model can be used.

    The unload awaited the load, and the load the unload.
    """
    b = bench(sizes=SIZES, budget=100)
    for _ in range(20):
        unload = asyncio.create_task(b.pool.unload("one", drain_s=0))
        load = asyncio.create_task(b.pool.load("one"))
        assert not alive(await both(unload, load))
        b.pool.pin("one", pinned=True)
        unload = asyncio.create_task(b.pool.unload("one", drain_s=5))
        b.pool.begin_load("one")
        assert not alive(await both(unload))
        b.pool.pin("one", pinned=False)
    async with asyncio.timeout(5):
        await b.ask("one")


async def test_an_eviction_and_a_load_at_once_end(bench):
    """A load asked for between the decision to evict and the eviction waits, and then runs."""
    b = bench(sizes=SIZES, budget=50)
    for _ in range(5):
        await b.pool.load("one")
        other = asyncio.create_task(b.ask("two"))
        await until(lambda: b.pool.status("one").state != "ready")
        assert not alive(await both(b.pool.load("one"), other, b.pool.unload("two", drain_s=5)))
    assert b.pool.memory.used_bytes <= 50


async def test_the_drain_time_of_one_unload_cuts_no_later_one(bench):
    """Its timer ends with it.

    The timer of an earlier unload cut the answers of a later eviction.
    """
    b = bench(sizes=SIZES, budget=55)
    b.prepare["one"] = lambda engine: engine.may_step.clear()
    running = asyncio.create_task(b.ask("one"))
    await until(lambda: "one" in b.engines and b.engines["one"].running)
    unloading = asyncio.create_task(b.pool.unload("one", drain_s=0.2))
    await asyncio.sleep(0)
    b.engines["one"].may_step.set()
    await asyncio.gather(running, unloading)
    running = asyncio.create_task(b.ask("one"))
    await until(lambda: b.engines["one"].running)
    second = b.engines["one"]
    other = asyncio.create_task(b.ask("two"))
    await until(lambda: b.pool.status("one").state == "unloading")
    await asyncio.sleep(0.4)
    assert not second.closed
    second.may_step.set()
    await asyncio.gather(running, other)


async def test_a_request_right_after_a_cancelled_load_is_answered(bench):
    """The reservation of the load that was unloaded is gone before the next load begins.

    The next load met it: AssertionError, and under -O the memory was counted twice.
    """
    b = bench(sizes=SIZES, budget=100)
    closing = asyncio.Event()

    def slow(engine):
        engine.may_load.clear()
        closed = engine.aclose

        async def aclose():
            await closing.wait()
            await closed()

        engine.aclose = aclose

    b.prepare["one"] = slow
    first = asyncio.create_task(b.ask("one"))
    await until(lambda: "one" in b.engines)
    unloading = asyncio.create_task(b.pool.unload("one", drain_s=0))
    await asyncio.sleep(0.01)
    b.prepare.clear()
    second = asyncio.create_task(b.ask("one"))
    await asyncio.sleep(0.01)
    closing.set()
    cut, answer, unloaded = await both(first, second, unloading)
    assert isinstance(cut, ModelNotReady)
    assert len(answer) == 7
    assert unloaded is None
    assert b.pool.memory.used_bytes == 40


async def test_a_load_that_is_waited_for_and_unloaded_fails_with_a_reason(bench):
    """The caller is told, and when to try again; it is not cancelled."""
    b = bench(sizes=SIZES, budget=100)
    b.prepare["one"] = lambda engine: engine.may_load.clear()
    loading = asyncio.create_task(b.pool.load("one"))
    await until(lambda: "one" in b.engines)
    await b.pool.unload("one", drain_s=60)
    with pytest.raises(ModelNotReady, match="unloaded meanwhile") as caught:
        await loading
    assert caught.value.retry_after_s


async def test_a_request_that_waits_for_state_does_not_keep_its_model(bench):
    """It is sent back to wait for a new load.

    Two models whose requests waited for each other's memory never moved again.
    """
    b = bench(sizes={"one": 45, "two": 45}, budget=101)
    b.prepare["one"] = b.prepare["two"] = lambda engine: engine.may_step.clear()
    asked = []
    for model, tokens in (("one", 1), ("two", 10), ("two", 11), ("one", 30), ("two", 30)):
        asked.append(asyncio.create_task(b.ask(model, max_tokens=tokens)))
        await until(lambda: len(asked) > 2 or (b.engines.get(model) and b.engines[model].running))  # noqa: B023
        await asyncio.sleep(0)
    b.prepare.clear()
    for engine in b.engines.values():
        engine.may_step.set()
    assert not [each for each in await both(*asked) if isinstance(each, BaseException)]


async def test_pinning_a_model_cancels_its_eviction(bench):
    """Whoever waits for its memory is refused, and told why."""
    b = bench(sizes=SIZES, budget=55)
    b.prepare["one"] = lambda engine: engine.may_step.clear()
    running = asyncio.create_task(b.ask("one"))
    await until(lambda: "one" in b.engines and b.engines["one"].running)
    other = asyncio.create_task(b.ask("two"))
    await until(lambda: b.pool.status("one").state == "unloading")
    b.pool.pin("one", pinned=True)
    with pytest.raises(TriptychError, match="pinned models are unpinned: one"):
        await other
    assert b.pool.status("one").state == "ready"
    b.engines["one"].may_step.set()
    await running


async def test_a_forced_unload_waits_for_no_measurement(bench):
    """Nor does a second, forced one wait behind the first."""
    b = bench()
    await b.pool.load("one")
    measuring = b.gate.exclusive(max_wait_s=5)
    await measuring.__aenter__()
    unloading = asyncio.create_task(b.pool.unload("one", drain_s=60))
    await asyncio.sleep(0.01)
    assert b.pool.status("one").state == "unloading"
    await b.pool.unload("one", drain_s=0)
    await unloading
    await measuring.__aexit__(None, None, None)


async def test_a_model_whose_engine_restarts_refuses_with_a_time(bench):
    """Clients are told when to come back, as a cold load would have let them wait."""
    b = bench()
    await b.ask()
    b.engines["one"].restarts, b.engines["one"].restarting = 0, True
    b.engines["one"].trouble = lambda: "the host is being started again"
    with pytest.raises(EngineFailed, match="started again") as caught:
        await b.ask()
    assert caught.value.retry_after_s >= 1
    status = b.pool.status("one")
    assert status.down
    assert status.retry_after_s >= 1


async def test_a_server_out_of_reach_is_asked_again(bench):
    """Only the next request can tell that it is back: once it was refused unasked."""
    b = bench()
    await b.ask()
    b.engines["one"].trouble = lambda: "could not be reached 3 times"

    await b.ask()

    assert b.pool.status("one").down


async def test_a_restarted_engine_is_probed_again(bench):
    """Until then nobody knows that it still answers as it should."""
    b = bench(probe=True)
    b.prepare["one"] = lambda engine: (
        setattr(engine, "restarts", 0),
        setattr(engine, "restarting", False),
        setattr(engine, "trouble", lambda: "it restarts" if engine.restarting else None),
    )
    await b.ask()
    engine = b.engines["one"]
    assert b.pool.status("one").verified
    asked = engine.most_running
    engine.restarting, engine.restarts = True, 1
    await b.pool.upkeep.verify_restarted()
    assert b.pool.status("one").verified is None
    engine.restarting, engine.most_running = False, 0
    await b.pool.upkeep.verify_restarted()
    await until(lambda: b.pool.status("one").verified)
    assert engine.most_running == asked > 1
