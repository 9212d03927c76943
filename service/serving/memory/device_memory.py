"""DeviceMemory: the memory budget of a device, reserved before use and waited for in order."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from service.core.errors import DoesNotFit, Overloaded
from service.core.sizes import human_bytes
from service.serving.memory.eviction import (
    Evict,
    Fits,
    Never,
    Resident,
    Wait,
    may_overtake,
    plan,
    refusal,
)
from service.serving.memory.reservation import Account, Reservation, Tenant

log = logging.getLogger(__name__)

#: Retry-After where too many wait: about what a small model takes to load.
RETRY_S = 2.0


class _TenantLeaves:
    """Outcome of a wait for request state whose model is being evicted."""


@dataclass(slots=True, eq=False)
class _Waiter:
    tenant: Tenant
    need_bytes: int
    is_load: bool
    again: bool
    """It was sent back before: such waiters stand in front, in the order in which they came."""
    turn: "asyncio.Future[Reservation | DoesNotFit | _TenantLeaves]"
    """Failures are results too: a waiter that was cancelled meanwhile leaves none unretrieved."""
    evicting: dict[str, Tenant] = field(default_factory=dict)
    """Models that were told to go for it."""


def _unheard(free_bytes: int) -> None:
    """Nobody holds what is left."""


class DeviceMemory:
    """Reserves bytes for models and for requests' state; what does not fit waits in order.

    A newcomer overtakes the first waiter only if that takes nothing from it. A request that waits
    for state keeps its model from being evicted only while it is the first waiter; otherwise it is
    sent back to wait for a new load. Only `reserve` and `reserve_state` wait.
    """

    def __init__(
        self,
        budget_bytes: int,
        *,
        max_waiting: int = 256,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.budget_bytes = budget_bytes
        self.used_bytes = 0
        self.on_free: Callable[[int], object] = _unheard
        """Called with what is left of the budget: a cache may hold it until it is reserved."""
        self._max_waiting = max_waiting
        self._clock_ns = clock_ns
        self._accounts: dict[str, Account] = {}
        self._waiting: deque[_Waiter] = deque()

    def __repr__(self) -> str:
        return (
            f"<DeviceMemory {self.used_bytes} of {self.budget_bytes} bytes, {self.waiting} waiting>"
        )

    # Models

    async def reserve(self, tenant: Tenant, held_bytes: int) -> None:
        """Reserve what a model will hold, before it is loaded.

        Raises DoesNotFit, or Overloaded if too many wait already.
        """
        await self._wait(tenant, held_bytes, is_load=True)

    def adjust(self, tenant: Tenant, held_bytes: int) -> None:
        """Replace a loaded model's reservation by what was measured, even beyond the budget."""
        account = self._accounts.get(tenant.id)
        if account is None:
            account = self._accounts[tenant.id] = Account(tenant, 0)
        self._use(held_bytes - account.held_bytes)
        account.held_bytes = held_bytes
        if self.used_bytes > self.budget_bytes:
            self._shrink(tenant.id)
        self.changed()

    def release(self, tenant: Tenant) -> None:
        """Release everything reserved for a model and its requests; idempotent."""
        account = self._accounts.pop(tenant.id, None)
        if account is not None:
            self._use(-account.held_bytes - account.state_bytes)
            self.changed()

    # Requests

    def try_reserve_state(self, tenant: Tenant, state_bytes: int) -> Reservation | None:
        """Reserve a request's state if that is possible at once, else None.

        It overtakes waiters if its model is being evicted: they get the model's memory sooner.
        """
        account = self._accounts.get(tenant.id)
        if account is None or not state_bytes:
            return Reservation(
                self.add_state, None, 0
            )  # the model is not counted, or it needs nothing
        if self.used_bytes + state_bytes > self.budget_bytes:
            return None
        if self._waiting and not tenant.resident(0, 0).leaving:
            return None
        return Reservation(self.add_state, account, state_bytes)

    async def reserve_state(
        self, tenant: Tenant, state_bytes: int, *, again: bool = False
    ) -> Reservation | None:
        """Reserve a request's state, in order; None if the model starts to be evicted meanwhile.

        One that was sent back before waits *again* in front of all others but its like, in order:
        two requests that send each other back would have their models loaded alternately, without
        end.

        Raises DoesNotFit or Overloaded.
        """
        return await self._wait(tenant, state_bytes, is_load=False, again=again)

    def send_back(self, tenant: Tenant) -> None:
        """End the waits of a model's requests, since the model is being evicted.

        Those that fit now run before the eviction.
        """
        for waiter in tuple(self._waiting):
            if waiter.tenant is tenant and not waiter.is_load and not waiter.turn.done():
                self._send_back(waiter)

    def _send_back(self, waiter: _Waiter) -> None:
        reserved = self.try_reserve_state(waiter.tenant, waiter.need_bytes)
        waiter.turn.set_result(reserved or _TenantLeaves())

    def add_state(self, account: Account, change_bytes: int) -> None:
        """Count a change of a request's reservation; those of a released model are void."""
        if self._accounts.get(account.tenant.id) is account:
            account.state_bytes += change_bytes
            self._use(change_bytes)
            if change_bytes < 0 and self._waiting:
                self.changed()

    # Reading

    @property
    def waiting(self) -> int:
        """Loads and requests that wait for memory."""
        return len(self._waiting)

    def state_bytes(self, name: str) -> int | None:
        """Reserved for a model's requests; None if the model is not counted."""
        account = self._accounts.get(name)
        return None if account is None else account.state_bytes

    def held_bytes(self, name: str) -> int:
        """Reserved for a model at rest; 0 if it is not counted."""
        account = self._accounts.get(name)
        return 0 if account is None else account.held_bytes

    def check_together(self, needs: dict[str, int], pinned: frozenset[str]) -> None:
        """Raise DoesNotFit unless all of these fit at once, beside what is pinned."""
        fixed = {
            name: account.held_bytes
            for name, account in self._accounts.items()
            if name in pinned and name not in needs
        }
        need_bytes = sum(needs.values())
        if need_bytes + sum(fixed.values()) > self.budget_bytes:
            parts = ", ".join(f"{name} {human_bytes(count)}" for name, count in needs.items())
            raise DoesNotFit(
                f"together these need {human_bytes(need_bytes)} ({parts}), and the memory budget "
                f"is {human_bytes(self.budget_bytes)}, of which pinned models hold "
                f"{human_bytes(sum(fixed.values()))}; ask for fewer at once, one after another, "
                "or raise `memory_budget`"
            )

    def _use(self, change_bytes: int) -> None:
        self.used_bytes += change_bytes
        self.on_free(self.budget_bytes - self.used_bytes)

    # Decisions

    def changed(self) -> None:
        """Serve the waiters that can be served now: something became free, idle or unpinned."""
        for waiter in tuple(self._waiting):
            if waiter.turn.done():
                continue
            first = next(each for each in self._waiting if not each.turn.done())
            if waiter is first:
                self._serve(waiter)
            elif self._holds_leaving(waiter):
                self._send_back(waiter)
            elif may_overtake(
                waiter.need_bytes, first.need_bytes, self.budget_bytes, self._residents()
            ):
                self._grant(waiter)

    async def _wait(
        self, tenant: Tenant, need_bytes: int, *, is_load: bool, again: bool = False
    ) -> Reservation | None:
        if len(self._waiting) >= self._max_waiting:
            raise Overloaded(
                f"{len(self._waiting)} loads and requests wait for memory; try again later",
                retry_after_s=RETRY_S,
            )
        turn = asyncio.get_running_loop().create_future()
        waiter = _Waiter(tenant, need_bytes, is_load, again, turn)
        if again:
            self._waiting.insert(sum(each.again for each in self._waiting), waiter)
        else:
            self._waiting.append(waiter)
        self.changed()
        try:
            outcome = await waiter.turn
        except asyncio.CancelledError:
            if waiter.turn.done() and not waiter.turn.cancelled():
                self._take_back(waiter, waiter.turn.result())  # granted in the same step
            raise
        finally:
            self._waiting.remove(waiter)
            for each in waiter.evicting.values():
                each.cancel_eviction()  # `changed` evicts again what the next in turn needs
            self.changed()
        if isinstance(outcome, DoesNotFit):
            raise outcome
        return outcome if isinstance(outcome, Reservation) else None

    def _take_back(
        self, waiter: _Waiter, outcome: "Reservation | DoesNotFit | _TenantLeaves"
    ) -> None:
        if isinstance(outcome, Reservation):
            outcome.release()
            if waiter.is_load:
                self.release(waiter.tenant)

    def _serve(self, waiter: _Waiter) -> None:
        """Do what can be done now for the first in the queue."""
        if self._holds_leaving(waiter):
            waiter.tenant.cancel_eviction()  # others want its memory, and this one is served first
            if self._holds_leaving(waiter):
                self._send_back(waiter)
                return
        residents = self._residents()
        decided = plan(
            waiter.need_bytes,
            self.budget_bytes,
            residents,
            now_ns=self._clock_ns(),
            keep=None if waiter.is_load else waiter.tenant.id,
        )
        match decided:
            case Fits():
                self._grant(waiter)
            case Evict(ids) | Wait(ids):
                for name in ids:
                    tenant = waiter.evicting[name] = self._accounts[name].tenant
                    tenant.evict(f"to make room for {waiter.tenant.id}")
            case Never():
                waiter.turn.set_result(DoesNotFit(self._refusal(waiter, residents, decided)))

    def _grant(self, waiter: _Waiter) -> None:
        if not waiter.is_load:
            account = self._accounts.get(waiter.tenant.id)
            waiter.turn.set_result(Reservation(self.add_state, account, waiter.need_bytes))
            return
        stale = self._accounts.pop(waiter.tenant.id, None)
        if stale is not None:  # a model is loaded once: what it held before is replaced
            log.error("%s was loaded again before its memory was released", waiter.tenant.id)
            self._use(-stale.held_bytes - stale.state_bytes)
        self._accounts[waiter.tenant.id] = Account(waiter.tenant, waiter.need_bytes)
        self._use(waiter.need_bytes)
        waiter.turn.set_result(Reservation(self.add_state, None, 0))

    def _refusal(self, waiter: _Waiter, residents: Sequence[Resident], never: Never) -> str:
        who, fix = waiter.tenant.id, "raise `memory_budget`"
        if not waiter.is_load:
            who, fix = f"a request to {who}", f"{fix} or lower `max_tokens`"
        return refusal(who, waiter.need_bytes, self.budget_bytes, residents, never, fix=fix)

    def _shrink(self, keep: str) -> None:
        """Evict idle models after *keep* turned out larger than predicted."""
        decided = plan(0, self.budget_bytes, self._residents(), now_ns=self._clock_ns(), keep=keep)
        log.warning(
            "%s holds more than predicted: %s are reserved of a memory budget of %s",
            keep,
            human_bytes(self.used_bytes),
            human_bytes(self.budget_bytes),
        )
        if isinstance(decided, Evict):
            for name in decided.ids:
                self._accounts[name].tenant.evict(f"since {keep} holds more than predicted")

    @staticmethod
    def _holds_leaving(waiter: _Waiter) -> bool:
        """True for a request whose model is being evicted or unloaded, which waits for it."""
        return not waiter.is_load and waiter.tenant.resident(0, 0).leaving

    def _residents(self) -> list[Resident]:
        return [
            each.tenant.resident(each.held_bytes, each.state_bytes)
            for each in self._accounts.values()
        ]
