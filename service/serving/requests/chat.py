"""The one path: a request goes to a model, its events come back, its record is made."""

import asyncio
import random
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AsyncExitStack, aclosing, nullcontext
from types import TracebackType
from typing import NamedTuple, Self

import msgspec

from service.core.chat import ChatRequest
from service.core.errors import (
    ConfigError,
    ContextOverflow,
    DoesNotFit,
    EngineDied,
    EngineFailed,
    ModelNotReady,
    Overloaded,
    TriptychError,
)
from service.core.events import EngineEvent, Finished, Started
from service.core.record import RequestRecord
from service.core.routing import Route
from service.serving.gate import Gate
from service.serving.models.lease import Lease
from service.serving.models.pool import Pool
from service.serving.requests.quarantine import Quarantine
from service.serving.requests.recorder import Recorder, Recording
from service.serving.requests.router import Choice, choose

#: What lets a route go on to its next arm, as long as nothing was answered yet.
_PASSED_ON = (ModelNotReady, DoesNotFit, Overloaded, ContextOverflow, EngineFailed)


class ChatService:
    """Answers requests: chat, completion and compare alike."""

    def __init__(
        self,
        pool: Pool,
        recorder: Recorder,
        gate: Gate,
        routes: Mapping[str, Route],
        *,
        random: Callable[[], float] = random.random,
    ) -> None:
        check_routes(routes, pool)
        self.pool = pool
        self.recorder = recorder
        self.gate = gate
        self.routes = routes
        self.quarantine = Quarantine()
        self.probation = asyncio.Lock()
        """Held by the one suspect that runs: if the engine dies again, it is clear of whom."""
        self._random = random

    def open(self, request: ChatRequest, *, isolated: bool = False) -> "Answer":
        """Accept a request, record it and choose who answers; nothing is started yet.

        With `isolated` the caller already has the gate to itself and the model is loaded.
        Raises ModelNotFound.
        """
        recording = self.recorder.accept(request)
        try:
            choice = choose(request, self.routes, self.pool.statuses, random=self._random())
        except TriptychError as error:
            recording.fail(error)
            raise
        recording.routed(choice.policy, choice.reason)
        return Answer(self, request, choice, recording, isolated=isolated)


class Answer:
    """Events of one request; the last is `Finished`, and then `record` is final.

    Use it as a context: leaving it early cancels the request and records that.
    """

    def __init__(
        self,
        service: ChatService,
        request: ChatRequest,
        choice: Choice,
        recording: Recording,
        *,
        isolated: bool,
    ) -> None:
        self.request = request
        self.choice = choice
        self.model: str | None = choice.arms[0] if len(choice.arms) == 1 else None
        """Who answers; None until a route with several arms has settled on one."""
        self._service = service
        self._recording = recording
        self._isolated = isolated
        self._stream = self._events()

    @property
    def record(self) -> RequestRecord:
        """What is known so far; final after the last event, an error or `aclose`."""
        return self._recording.record

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> EngineEvent:
        try:
            return await anext(self._stream)
        except StopAsyncIteration:
            raise
        except BaseException as error:  # recorded whatever it is, and passed on
            self._recording.fail(error)
            raise

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
        """Cancel what still runs. The record is made before anything is awaited."""
        self._recording.finish("cancelled")
        await self._stream.aclose()

    async def _events(self) -> AsyncGenerator[EngineEvent]:
        # The first write to disk overlaps with the engine's work; no byte goes out before it.
        durable = asyncio.ensure_future(self._recording.durable())
        try:
            async with AsyncExitStack() as stack:
                attempt, event = await self._begin(stack)
                await durable
                while not isinstance(event, Finished):
                    yield event
                    event = await self._next(attempt)
                    self._recording.observe(event)
                attempt.lease.complete()
                self._service.quarantine.clear(attempt.request)
            # The slot and the place in the queue are free before the last event is passed on.
            yield event
        finally:
            if not durable.cancel() and not durable.cancelled():
                durable.exception()  # seen: an answer that ended otherwise does not need it

    async def _begin(self, stack: AsyncExitStack) -> "tuple[_Attempt, EngineEvent]":
        """The first arm that answers, and its first event."""
        *others, last = self.choice.arms
        for name in others:
            try:
                return await self._try(name, stack)
            except _PASSED_ON as error:
                await stack.aclose()
                self._recording.fell_back(name, error)
        return await self._try(last, stack)

    async def _try(self, name: str, stack: AsyncExitStack) -> "tuple[_Attempt, EngineEvent]":
        request = msgspec.structs.replace(self.request, model=name)
        suspected = self._service.quarantine.check(request)
        lease = stack.enter_context(self._service.pool.admit(name))
        if suspected and not self._isolated:
            await stack.enter_async_context(self._service.probation)
            self._service.quarantine.check(request)  # what it waited for may have been its equal
        engine = await lease.ready(request, load=not self._isolated)
        self._recording.served_by(engine.model, verified=lease.verified, load_ns=lease.load_ns)
        gate = self._service.gate
        await stack.enter_async_context(nullcontext() if self._isolated else gate.shared())
        events = await stack.enter_async_context(aclosing(engine.generate(request)))
        attempt = _Attempt(request, lease, events)
        event = await self._next(attempt)
        if isinstance(event, Started):
            lease.started(event.prompt_tokens)
        self._recording.observe(event)
        self.model = engine.model.id
        return attempt, event

    async def _next(self, attempt: "_Attempt") -> EngineEvent:
        try:
            return await anext(attempt.events)
        except StopAsyncIteration:
            raise EngineFailed("the engine ended the answer without finishing it") from None
        except EngineDied as error:
            if error.suspect:
                self._service.quarantine.blame(attempt.request)
            raise


class _Attempt(NamedTuple):
    request: ChatRequest
    lease: Lease
    events: AsyncGenerator[EngineEvent]


def check_routes(routes: Mapping[str, Route], pool: Pool) -> None:
    """Raise ConfigError for a route that hides a model or names an arm that does not exist."""
    for name, route in routes.items():
        if name in pool.models:
            raise ConfigError(f"`routes.{name}` has the id of a model; choose another id")
        for arm in route.arms:
            if arm.model not in pool.models:
                raise ConfigError(
                    f"`routes.{name}` names the model {arm.model}, which the catalogue does not "
                    "have; see `triptych models list`"
                )
