"""The gate keeps isolated work alone and starves nobody."""

import asyncio

import pytest

from service.serving.gate import Gate


async def settle():
    for _ in range(10):
        await asyncio.sleep(0)


def passing(gate, log, name, kind, leave):
    async def run():
        async with getattr(gate, kind)():
            log.append(name)
            await leave.wait()

    return asyncio.create_task(run())


async def test_shared_passes_together():
    """Two ordinary requests are inside at the same time."""
    gate, log, leave = Gate(), [], asyncio.Event()
    tasks = [passing(gate, log, name, "shared", leave) for name in "ab"]
    await settle()
    assert log == ["a", "b"]
    leave.set()
    await asyncio.gather(*tasks)


async def test_exclusive_waits_for_those_inside_and_keeps_newcomers_out():
    """An isolated request enters after those inside left and before those who came later."""
    gate, log = Gate(), []
    first, alone, late = asyncio.Event(), asyncio.Event(), asyncio.Event()
    tasks = [passing(gate, log, "first", "shared", first)]
    await settle()
    tasks.append(passing(gate, log, "alone", "exclusive", alone))
    await settle()
    tasks.append(passing(gate, log, "late", "shared", late))
    await settle()
    assert log == ["first"]
    first.set()
    await settle()
    assert log == ["first", "alone"]
    alone.set()
    await settle()
    assert log == ["first", "alone", "late"]
    late.set()
    await asyncio.gather(*tasks)


async def test_second_exclusive_does_not_overtake_waiting_shared():
    """A chain of isolated requests cannot starve ordinary ones."""
    gate, log = Gate(), []
    leave = {name: asyncio.Event() for name in ("one", "plain", "two")}
    tasks = []
    for name, kind in (("one", "exclusive"), ("plain", "shared"), ("two", "exclusive")):
        tasks.append(passing(gate, log, name, kind, leave[name]))
        await settle()
    for name in ("one", "plain", "two"):
        leave[name].set()
        await settle()
    assert log == ["one", "plain", "two"]
    await asyncio.gather(*tasks)


@pytest.mark.parametrize("admitted", [False, True])
async def test_a_cancelled_waiter_blocks_nobody(admitted):
    """A waiter cancelled before or in the very step of its admission leaves the gate open."""
    gate, log = Gate(), []
    first, done = asyncio.Event(), asyncio.Event()
    holder = passing(gate, log, "first", "shared", first)
    await settle()
    waiter = passing(gate, log, "waiter", "exclusive", done)
    await settle()
    follower = passing(gate, log, "follower", "shared", done)
    await settle()
    if admitted:
        first.set()
        await asyncio.sleep(0)  # the holder leaves and admits the waiter, which is yet to run
    waiter.cancel()
    await settle()
    assert log == ["first", "follower"]
    first.set()
    done.set()
    await asyncio.gather(holder, follower)
    assert repr(gate) == "<Gate inside=0 alone=False waiting=0>"
