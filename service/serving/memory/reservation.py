"""Reservations of the memory budget: a model's account, and a request's share of it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from service.serving.memory.eviction import Resident


class Tenant(Protocol):
    """A model that holds memory, as the budget sees it."""

    id: str

    def resident(self, held_bytes: int, state_bytes: int) -> Resident:
        """Describe the model for an eviction decision, given its reservations."""

    def evict(self, reason: str) -> None:
        """Unload as soon as it is idle: others wait for its memory."""

    def cancel_eviction(self) -> None:
        """Keep serving, unless it is closing already: nobody waits for its memory any more."""


@dataclass(slots=True, eq=False)
class Account:
    """The reservations of one model."""

    tenant: Tenant
    held_bytes: int
    state_bytes: int = 0


class Reservation:
    """Memory reserved for the state of one request, until it is released."""

    __slots__ = ("_account", "_add_state", "_state_bytes")

    def __init__(
        self,
        add_state: Callable[[Account, int], None],
        account: Account | None,
        state_bytes: int,
    ) -> None:
        """Reserve; *add_state* counts each change, and *account* is None if nothing is counted."""
        self._add_state = add_state
        self._account = account
        self._state_bytes = 0
        self.adjust(state_bytes)

    def adjust(self, state_bytes: int) -> None:
        """Replace the reservation, even beyond the budget: the request is already running."""
        if self._account is not None:
            change_bytes = state_bytes - self._state_bytes
            self._state_bytes = state_bytes
            self._add_state(self._account, change_bytes)

    def release(self) -> None:
        """Release the reservation; idempotent."""
        self.adjust(0)
