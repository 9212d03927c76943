"""Answer: the events of one request, from its place in the queue to its last token."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field
from types import TracebackType
from typing import NamedTuple, Self

import msgspec

from service.core.chat import ChatRequest
from service.core.errors import (
    ContextOverflow,
    DeadlineExceeded,
    DoesNotFit,
    EngineDied,
    EngineFailed,
    ModelNotFound,
    ModelNotReady,
    Overloaded,
    TriptychError,
)
from service.core.events import EngineEvent, Finished, Started
from service.core.metrics import RequestMetrics
from service.core.ports import Engine
from service.core.record import RequestRecord
from service.core.routes.decision import Decision
from service.serving.gate import Gate, Isolation
from service.serving.models.lease import Lease
from service.serving.models.pool import Pool
from service.serving.requests.masking import masked
from service.serving.requests.quarantine import Quarantine
from service.serving.requests.recorder import Recording
from service.serving.requests.setbacks import Setbacks
from service.serving.requests.work import WorkFormulas

#: What makes a route try its next arm, as long as nothing has been answered.
_PASSED_ON = (ModelNotFound, ModelNotReady, DoesNotFit, Overloaded, ContextOverflow, EngineFailed)


@dataclass(frozen=True, kw_only=True)
class Resources:
    """Shared by all answers."""

    pool: Pool
    gate: Gate
    quarantine: Quarantine = field(default_factory=Quarantine)
    probation: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while a suspect runs, so that another engine death can be attributed to it."""
    setbacks: Setbacks = field(default_factory=Setbacks)
    works: WorkFormulas = field(default_factory=WorkFormulas)


class Answer:
    """Events of one request; the last is `Finished`, and then `record` is final.

    Use it as a context: leaving it early cancels the request and records that. Iterating raises
    DeadlineExceeded past the request's deadline, and what `interrupt` was given.
    """

    def __init__(
        self,
        resources: Resources,
        request: ChatRequest,
        choice: Decision,
        recording: Recording,
        *,
        isolated_within_s: float | None,
        ended: Callable[[RequestRecord], None] = lambda _: None,
    ) -> None:
        self.request = request
        self.choice = choice
        self.model: str | None = choice.arms[0] if len(choice.arms) == 1 else None
        """The model that answers; None until a route with several arms has settled on one."""
        self.isolation: Isolation | None = None
        """What disturbed an isolated request; None for others, and before it runs."""
        self._resources = resources
        self._recording = recording
        self._isolated_within_s = isolated_within_s
        self._ended = ended
        """Called once, when everything is released."""
        self._closed = False
        self._stream = self._events()
        self._limit: asyncio.Timeout | None = None
        self._interruption: TriptychError | None = None

    @property
    def record(self) -> RequestRecord:
        """The record so far; final after the last event, an error or `aclose`."""
        return self._recording.record

    @property
    def shown_model(self) -> str | None:
        """The model that clients may be told: the route's own id where the arm is hidden."""
        return self.request.model if self.choice.hidden else self.model

    @property
    def metrics(self) -> RequestMetrics:
        """Metrics of `record`; derived once when it is final."""
        return self._recording.metrics

    @property
    def completion_tokens(self) -> int | None:
        """Tokens so far; None where the engine does not report them."""
        return self._recording.completion_tokens

    def interrupt(self, reason: TriptychError) -> None:
        """End the answer now: whoever iterates it gets *reason*."""
        if self.record.phase == "final":
            return
        self._interruption = reason
        if self._limit is not None and not self._limit.expired():
            self._limit.reschedule(asyncio.get_running_loop().time())

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> EngineEvent:
        try:
            return await self._next_in_time()
        except StopAsyncIteration:
            raise
        except BaseException as error:  # recorded whatever it is, and passed on
            if error is self._interruption:
                self._recording.finish("interrupted", self._interruption.code)
            else:
                self._recording.fail(error)
            if self.choice.hidden and isinstance(error, TriptychError):
                raise masked(error, self.request.model) from error
            raise

    async def _next_in_time(self) -> EngineEvent:
        if self._interruption is not None:
            raise self._interruption
        try:
            async with asyncio.timeout(self._left_s()) as self._limit:
                return await anext(self._stream)
        except TimeoutError:
            if self._interruption is not None:
                raise self._interruption from None
            if self._limit is not None and self._limit.expired():
                raise self._late() from None
            raise
        finally:
            self._limit = None

    def _left_s(self) -> float | None:
        """Seconds until the deadline; raises DeadlineExceeded when it is past."""
        if self.request.deadline_ns is None:
            return None
        left_s = (self.request.deadline_ns - self._recording.clock_ns()) / 1e9
        if left_s <= 0:
            raise self._late()
        return left_s

    def _late(self) -> DeadlineExceeded:
        assert self.request.deadline_ns is not None
        limit_s = (self.request.deadline_ns - self.request.accepted_ns) / 1e9
        return DeadlineExceeded(f"The answer was not complete within {limit_s:g} s.")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Cancel the request if it still runs; its record is submitted before any await."""
        if self._interruption is not None:
            self._recording.finish("interrupted", self._interruption.code)
        self._recording.finish("cancelled")
        try:
            await self._stream.aclose()
        finally:
            if not self._closed:
                self._closed = True
                self._ended(self.record)

    async def _events(self) -> AsyncGenerator[EngineEvent]:
        # The first write to disk overlaps with the engine's work; no byte goes out before it.
        durable = asyncio.ensure_future(self._recording.durable())
        try:
            self._recording.queued(self._recording.clock_ns())
            async with AsyncExitStack() as stack:
                attempt, first = await self._begin(stack)
                await durable
                for event in first[:-1]:
                    yield event
                event = first[-1]
                while not isinstance(event, Finished):
                    yield event
                    event = await self._next(attempt)
                    self._recording.observe(event)
                attempt.lease.complete()
                self._resources.quarantine.clear(attempt.request)
                self._resources.setbacks.clear(attempt.request.model)
            # The slot and the place in the queue are free before the last event is passed on.
            yield event
        finally:
            if not durable.cancel() and not durable.cancelled():
                durable.exception()  # seen: an answer that ended otherwise does not need it

    async def _begin(self, stack: AsyncExitStack) -> "tuple[_Attempt, Sequence[EngineEvent]]":
        """Run the first arm that answers; return its events up to the first content.

        The last arm's first event is passed on at once: there is nothing left to fall back to.
        """
        *others, last = self.choice.arms
        for name in others:
            try:
                attempt, event = await self._try(name, stack)
                events = [event]
                while isinstance(events[-1], Started):
                    events.append(await self._next(attempt))
                    self._recording.observe(events[-1])
            except _PASSED_ON as error:
                await stack.aclose()
                self._recording.fell_back(name, error)
            else:
                return attempt, events
        attempt, event = await self._try(last, stack)
        return attempt, [event]

    async def _try(self, name: str, stack: AsyncExitStack) -> "tuple[_Attempt, EngineEvent]":
        request = msgspec.structs.replace(self.request, model=name)
        suspected = self._resources.quarantine.check(request)
        lease = stack.enter_context(self._resources.pool.admit(name))
        if suspected:
            await stack.enter_async_context(self._resources.probation)
            self._resources.quarantine.check(request)  # what it waited for may have been its equal
        engine = await self._ready(request, lease)
        await self._pass_gate(stack)
        events = await stack.enter_async_context(aclosing(engine.generate(request)))
        attempt = _Attempt(request, lease, events)
        event = await self._next(attempt)
        if isinstance(event, Started):
            lease.started(event.prompt_tokens)
        self._recording.observe(event)
        self.model = engine.model.id
        return attempt, event

    async def _ready(self, request: ChatRequest, lease: Lease) -> Engine:
        """Wait for the model and for memory."""
        try:
            engine = await lease.ready(request)
        except TriptychError as error:
            self._resources.setbacks.note(request.model, error)
            raise
        isolated = self._isolated_within_s is not None
        load_ns = None if isolated else lease.load_ns  # an isolated request's clock starts later
        self._recording.served_by(
            engine.model,
            verified=lease.verified,
            load_ns=load_ns,
            work=await self._resources.works.of(engine),
        )
        return engine

    async def _pass_gate(self, stack: AsyncExitStack) -> None:
        gate = self._resources.gate
        if self._isolated_within_s is None:
            await stack.enter_async_context(gate.shared())
            return
        alone = gate.exclusive(max_wait_s=self._isolated_within_s)
        self.isolation = await stack.enter_async_context(alone)
        self._recording.restart_clock()

    async def _next(self, attempt: "_Attempt") -> EngineEvent:
        try:
            return await anext(attempt.events)
        except StopAsyncIteration:
            raise EngineFailed("the engine ended before the answer was complete") from None
        except EngineFailed as error:
            self._resources.setbacks.note(attempt.request.model, error)
            if isinstance(error, EngineDied) and error.suspect:
                self._resources.quarantine.blame(attempt.request)
            raise


class _Attempt(NamedTuple):
    request: ChatRequest
    lease: Lease
    events: AsyncGenerator[EngineEvent]
