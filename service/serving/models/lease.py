"""Lease: a place in a model's queue, held from admission until the answer has ended."""

import time
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Self

from service.core.chat import ChatRequest
from service.core.ports import Budgeted, Engine
from service.serving.memory.reservation import Reservation
from service.serving.models.hosted_model import HostedModel
from service.serving.models.waiters import LoadedEngine


class Lease:
    """A place in a model's queue; use it as a context."""

    def __init__(
        self, hosted: HostedModel, clock_ns: Callable[[], int] = time.monotonic_ns
    ) -> None:
        """Take the place. Raises Overloaded."""
        hosted.queue.enter(hosted.slots)
        self._hosted = hosted
        self._clock_ns = clock_ns
        self._ready_ns: int | None = None
        self._service_s: float | None = None
        self._use = Use(hosted)
        self.load_ns: int | None = None
        """How long `ready` waited for the model to load; None if it was loaded already."""

    async def ready(self, request: ChatRequest | None = None) -> Engine:
        """The model's engine, loaded first if need be, with memory for the request's state.

        Raises ModelNotFound, ModelNotReady, DoesNotFit, Overloaded or EngineFailed.
        """
        engine = await self._use.begin(request)
        self.load_ns = self._use.load_ns
        self._ready_ns = self._clock_ns()
        return engine

    def started(self, prompt_tokens: int | None) -> None:
        """Adjust the reservation, now that the prompt's length is known."""
        if prompt_tokens is not None:
            self._use.adjust(prompt_tokens)

    def complete(self) -> None:
        """Note a complete answer: only these count for the mean service time."""
        if self._ready_ns is not None:
            self._service_s = (self._clock_ns() - self._ready_ns) / 1e9

    @property
    def verified(self) -> bool | None:
        """The model passed its conformance probe; None if that is unknown."""
        return self._hosted.life.verification.passed

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._use.end()
        self._hosted.queue.leave(self._service_s)


class Use:
    """A model that stays loaded, and memory for the state of one request."""

    def __init__(self, hosted: HostedModel) -> None:
        self._hosted = hosted
        self._loaded: LoadedEngine | None = None
        self._reservation: Reservation | None = None
        self._state_bytes: Callable[[int], int] | None = None
        self.load_ns: int | None = None
        """How long `begin` waited for loads; None if it met the model loaded."""

    async def begin(self, request: ChatRequest | None) -> Engine:
        """Load if need be, then reserve memory for the request's state.

        If the model is evicted while the request waits for memory, it is loaded again.
        """
        again = False
        while True:
            self._loaded, load_ns = await self._hosted.enter()
            if load_ns is not None:
                self.load_ns = (self.load_ns or 0) + load_ns
            engine = self._loaded.engine
            if request is None or not isinstance(engine, Budgeted):
                return engine
            of_request = partial(engine.state_bytes, request)
            self._state_bytes = lambda tokens, of=of_request: of(prompt_tokens=tokens)
            self._reservation = await self._reserve(engine.state_bytes(request), again=again)
            if self._reservation is not None:
                return engine
            again = True
            self._leave()

    async def _reserve(self, state_bytes: int, *, again: bool) -> Reservation | None:
        memory = self._hosted.memory
        reserved = memory.try_reserve_state(self._hosted, state_bytes)
        if reserved is None and (again or not self._hosted.leaving):
            reserved = await memory.reserve_state(self._hosted, state_bytes, again=again)
        return reserved

    def adjust(self, prompt_tokens: int) -> None:
        """Reserve what the request needs with a prompt of *prompt_tokens*."""
        if self._reservation is None or self._state_bytes is None:
            return
        self._reservation.adjust(self._state_bytes(prompt_tokens))

    def end(self) -> None:
        """Release the memory and end the use of the model; idempotent."""
        if self._reservation is not None:
            self._reservation.release()
            self._reservation = None
        self._leave()

    def _leave(self) -> None:
        if self._loaded is not None:
            loaded, self._loaded = self._loaded, None
            self._hosted.leave(loaded)
