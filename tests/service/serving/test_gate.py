"""The gate keeps an isolated measurement alone, and holds nobody back for long."""

import asyncio
from contextlib import suppress

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from service.core.errors import MachineBusy
from service.serving.gate import Gate
from support.virtual_time import VirtualTimeLoop

SHUT = "<Gate inside=0 alone=False waiting=0>"


async def settle():
    for _ in range(10):
        await asyncio.sleep(0)


class Visitor:
    """A task that passes the gate; times are the loop's."""

    def __init__(self, gate, kind, *, max_wait_s=30.0):
        self.gate, self.kind, self.max_wait_s = gate, kind, max_wait_s
        self.may_leave = asyncio.Event()
        self.isolation = self.entered_s = self.error = None
        self.came_s = self.now_s
        self.task = asyncio.create_task(self._pass())

    @property
    def now_s(self):
        return asyncio.get_running_loop().time()

    @property
    def inside(self):
        return self.entered_s is not None and not self.task.done()

    async def _pass(self):
        exclusive = self.kind == "exclusive"
        options = {"max_wait_s": self.max_wait_s} if exclusive else {}
        try:
            async with getattr(self.gate, self.kind)(**options) as self.isolation:
                self.entered_s = self.now_s
                await self.may_leave.wait()
        except MachineBusy as error:
            self.error = error

    async def leave(self):
        self.may_leave.set()
        await self.task


def in_virtual_time(test):
    """Run a coroutine test on a clock that jumps."""

    def run():
        with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
            runner.run(test())

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


@in_virtual_time
async def test_ordinary_requests_pass_together():
    """Two are inside at the same time."""
    gate = Gate()
    one, two = Visitor(gate, "shared"), Visitor(gate, "shared")
    await settle()
    assert one.inside
    assert two.inside
    await asyncio.gather(one.leave(), two.leave())
    assert repr(gate) == SHUT


@in_virtual_time
async def test_a_guest_enters_when_those_inside_have_left_and_before_those_who_came_later():
    """First come, first served, as long as the stall is short."""
    gate = Gate(max_stall_s=10)
    first = Visitor(gate, "shared")
    await settle()
    guest = Visitor(gate, "exclusive")
    await settle()
    late = Visitor(gate, "shared")
    await asyncio.sleep(1)
    assert (first.inside, guest.inside, late.inside) == (True, False, False)
    await first.leave()
    await settle()
    assert (guest.inside, late.inside) == (True, False)
    await guest.leave()
    await settle()
    assert late.inside
    assert guest.isolation.beside_requests is False
    await late.leave()


@in_virtual_time
async def test_newcomers_wait_for_a_guest_no_longer_than_the_stall():
    """One guest held everybody back until the longest running answer had ended."""
    gate = Gate(max_stall_s=10)
    endless = Visitor(gate, "shared")
    await settle()
    guest = Visitor(gate, "exclusive", max_wait_s=60)
    await asyncio.sleep(2)
    late = Visitor(gate, "shared")
    await asyncio.sleep(5.1)
    assert late.inside
    assert not guest.inside
    later = Visitor(gate, "shared")  # it is held back for nobody: the guest has had its try
    await settle()
    assert later.inside
    await asyncio.sleep(60)
    assert "no such moment within 60 s (3 running" in str(guest.error)
    assert guest.error.retry_after_s == 60
    await asyncio.gather(endless.leave(), late.leave(), later.leave())
    assert repr(gate) == SHUT


@in_virtual_time
async def test_a_guest_that_stays_long_goes_on_beside_those_who_waited():
    """Then it knows that it was not alone."""
    gate = Gate(max_stall_s=10)
    guest = Visitor(gate, "exclusive")
    await asyncio.sleep(30)
    late = Visitor(gate, "shared")
    await asyncio.sleep(9)
    assert not late.inside
    assert guest.isolation.beside_requests is False
    await asyncio.sleep(1.1)
    assert late.inside
    assert guest.isolation.beside_requests is True
    await asyncio.gather(late.leave(), guest.leave())


@in_virtual_time
async def test_guests_take_turns_with_those_who_waited():
    """A chain of guests cannot starve ordinary requests."""
    gate = Gate()
    one = Visitor(gate, "exclusive")
    await settle()
    plain = Visitor(gate, "shared")
    two = Visitor(gate, "exclusive")
    await settle()
    await one.leave()
    await settle()
    assert (plain.inside, two.inside) == (True, False)
    await plain.leave()
    await settle()
    assert two.inside
    await two.leave()


@in_virtual_time
async def test_guests_hold_newcomers_back_for_their_share_of_the_time_only():
    """After 4 s the gate stays open for 12 s, with a share of a quarter."""
    gate = Gate(max_stall_s=10, max_share=0.25)
    one = Visitor(gate, "exclusive")
    await settle()
    plain = Visitor(gate, "shared")
    await asyncio.sleep(4)
    await one.leave()
    await settle()
    await plain.leave()
    two = Visitor(gate, "exclusive")
    await asyncio.sleep(11.9)
    newcomer = Visitor(gate, "shared")
    await settle()
    assert (newcomer.inside, two.inside) == (True, False)
    await newcomer.leave()
    await asyncio.sleep(0.2)
    assert two.inside
    await two.leave()


@in_virtual_time
async def test_guests_follow_each_other_at_once_where_nobody_was_held_back():
    """The share is of time that others lost."""
    gate = Gate(max_share=0.01)
    one, two = Visitor(gate, "exclusive"), Visitor(gate, "exclusive")
    await asyncio.sleep(9)
    await one.leave()
    await settle()
    assert two.inside
    await two.leave()


@in_virtual_time
async def test_a_guest_does_not_wait_for_background_work_and_is_told_of_it():
    """The load of a model, of minutes, kept every comparison and then everybody waiting."""
    gate = Gate()
    load = Visitor(gate, "background")
    await settle()
    guest = Visitor(gate, "exclusive")
    await settle()
    assert guest.inside
    assert guest.isolation.beside_background is True
    await asyncio.gather(guest.leave(), load.leave())


@in_virtual_time
async def test_background_work_waits_for_a_guest_inside():
    """As long as a request would, and then the guest is told."""
    gate = Gate(max_stall_s=10)
    guest = Visitor(gate, "exclusive")
    await settle()
    load = Visitor(gate, "background")
    await asyncio.sleep(9.9)
    assert not load.inside
    assert guest.isolation.beside_background is False
    await asyncio.sleep(0.2)
    assert load.inside
    assert guest.isolation.beside_background is True
    await asyncio.gather(guest.leave(), load.leave())


@pytest.mark.parametrize("admitted", [False, True])
async def test_a_cancelled_waiter_blocks_nobody(admitted):
    """A guest cancelled before or in the very step of its admission leaves the gate open."""
    gate = Gate()
    first = Visitor(gate, "shared")
    await settle()
    guest = Visitor(gate, "exclusive")
    await settle()
    follower = Visitor(gate, "shared")
    await settle()
    if admitted:
        first.may_leave.set()
        await asyncio.sleep(0)  # the first leaves and admits the guest, which is yet to run
    guest.task.cancel()
    await settle()
    assert follower.inside
    await asyncio.gather(first.leave(), follower.leave())
    assert repr(gate) == SHUT


class GateMachine(RuleBasedStateMachine):
    """Whoever comes, leaves and gives up in whatever order: the promises hold, and all get on."""

    STALL_S = 10.0

    def __init__(self):
        super().__init__()
        self.runner = asyncio.Runner(loop_factory=VirtualTimeLoop)
        self.gate = Gate(max_stall_s=self.STALL_S)
        self.visitors = []

    def run(self, work):
        return self.runner.run(work)

    @rule(kind=st.sampled_from(["shared", "background", "exclusive"]), wait_s=st.floats(0, 60))
    def come(self, kind, wait_s):
        async def enter():
            self.visitors.append(Visitor(self.gate, kind, max_wait_s=wait_s))
            await settle()

        self.run(enter())

    @precondition(lambda self: any(each.inside for each in self.visitors))
    @rule(data=st.data())
    def leave(self, data):
        inside = [each for each in self.visitors if each.inside]
        self.run(self.left(data.draw(st.sampled_from(inside))))

    async def left(self, visitor):
        await visitor.leave()
        await settle()

    @precondition(lambda self: any(not each.task.done() for each in self.visitors))
    @rule(data=st.data(), steps=st.integers(0, 3))
    def cancel(self, data, steps):
        victim = data.draw(st.sampled_from([v for v in self.visitors if not v.task.done()]))
        leaving = [each for each in self.visitors if each.inside and each is not victim]

        async def end():
            if leaving:
                leaving[0].may_leave.set()  # so that the victim may be admitted in this very step
            for _ in range(steps):
                await asyncio.sleep(0)
            victim.task.cancel()
            with suppress(asyncio.CancelledError):
                await victim.task
            await settle()

        self.run(end())

    @rule(seconds=st.floats(0.01, 20))
    def pass_time(self, seconds):
        self.run(asyncio.sleep(seconds))
        self.run(settle())

    @invariant()
    def an_undisturbed_guest_is_alone(self):
        guests = [v for v in self.visitors if v.inside and v.kind == "exclusive"]
        assert len(guests) <= 1
        for guest in guests:
            if not guest.isolation.beside_requests:
                assert not any(v.inside and v.kind == "shared" for v in self.visitors)
            if not guest.isolation.beside_background:
                assert not any(v.inside and v.kind == "background" for v in self.visitors)

    @invariant()
    def nobody_waits_longer_than_it_may(self):
        now_s = self.runner.get_loop().time()
        for each in self.visitors:
            limit_s = each.max_wait_s if each.kind == "exclusive" else self.STALL_S
            waited_s = (now_s if each.entered_s is None else each.entered_s) - each.came_s
            if not (each.task.done() and each.entered_s is None):
                assert waited_s <= limit_s + 0.1, each.kind

    def teardown(self):
        async def end():
            for _ in range(2 * len(self.visitors)):
                for each in self.visitors:
                    each.may_leave.set()
                await settle()
                await asyncio.sleep(30)
            assert all(each.task.done() for each in self.visitors)

        self.run(end())
        self.runner.close()
        assert repr(self.gate) == SHUT


TestGateMachine = GateMachine.TestCase
TestGateMachine.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
