"""Requests that wait for state memory never hold each other's models."""

import asyncio

import pytest

from service.serving.memory.device_memory import DeviceMemory
from service.serving.memory.eviction import Resident


class BusyTenant:
    """A model with a running request: told to go, it leaves once it is released."""

    def __init__(self, name, memory):
        self.id = name
        self.memory = memory
        self.leaving = False

    def resident(self, held_bytes, state_bytes):
        return Resident(
            id=self.id,
            held_bytes=held_bytes,
            state_bytes=state_bytes,
            busy=True,
            leaving=self.leaving,
        )

    def evict(self, reason):
        if not self.leaving:
            self.leaving = True
            self.memory.send_back(self)

    def cancel_eviction(self):
        self.leaving = False


@pytest.fixture
def memory():
    return DeviceMemory(100)


async def test_what_is_left_of_the_budget_is_told(memory):
    """At every reservation, adjustment and release, so that a cache can yield."""
    told = []
    memory.on_free = told.append
    tenant = BusyTenant("one", memory)
    await memory.reserve(tenant, 40)
    reserved = memory.try_reserve_state(tenant, 30)
    memory.adjust(tenant, 50)
    reserved.release()
    memory.release(tenant)

    assert [*dict.fromkeys(told)] == [60, 30, 20, 50, 100]


async def test_requests_sent_back_do_not_hold_models_for_each_other(memory, settle):
    """The first of them is served, others give up models that go: they once waited for ever."""
    one, two = BusyTenant("one", memory), BusyTenant("two", memory)
    for tenant in (one, two):
        await memory.reserve(tenant, 40)
    waits = []
    for tenant in (one, two, one):
        waits.append(asyncio.create_task(memory.reserve_state(tenant, 30, again=True)))
        await settle()
    first, other, third = waits
    assert (first.done(), third.done(), two.leaving) == (False, False, True)
    assert await other is None
    memory.release(two)  # nobody uses it any more
    assert await first is not None
    assert await third is not None
    assert memory.used_bytes == 100
