"""Shadows: asks other models what a route's primary was asked, on capacity nobody else uses."""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from msgspec import structs

from service.core.chat import ChatRequest
from service.core.errors import (
    Draining,
    ShadowSkipped,
    ShadowYielded,
    StoreUnavailable,
    TriptychError,
)
from service.core.ids import new_request_id
from service.core.ports import Budgeted
from service.core.record import RequestRecord
from service.core.routes.decision import Decision
from service.core.routes.route import Route
from service.core.routes.shadow import ShadowRoute
from service.core.sizes import human_bytes
from service.serving.requests.answer import Answer, Resources
from service.serving.requests.recorder import Recorder, Recording

log = logging.getLogger(__name__)

#: How often the machine is looked at while shadows wait or run, in seconds.
LOOK_S: Final = 0.02


@dataclass(eq=False, slots=True)
class _Shadow:
    """A shadow that waits or runs; its record was accepted when it began to wait."""

    route_id: str
    route: ShadowRoute
    request: ChatRequest
    choice: Decision
    recording: Recording
    expires_s: float
    answer: Answer | None = None
    """Once it runs."""
    yields: bool = False
    """Somebody came before it ran."""


class Shadows:
    """Runs shadows after their primaries have ended, one record each whatever becomes of it.

    A shadow starts only while no other request waits or runs, on a model that is loaded or fits
    beside all that are. As soon as a client's request comes it ends, and its record says so:
    nobody's request waits for it, computes beside it, or loses a model to it.
    """

    def __init__(self, resources: Resources, recorder: Recorder) -> None:
        self._resources = resources
        self._recorder = recorder
        self._waiting: list[_Shadow] = []
        self._running: dict[asyncio.Task[None], _Shadow] = {}
        self._keeper: asyncio.Task[None] | None = None
        self._closed = False

    def __repr__(self) -> str:
        return f"<Shadows {len(self._waiting)} waiting, {len(self._running)} running>"

    @property
    def idle(self) -> bool:
        """True while none waits or runs."""
        return not self._waiting and not self._running

    def follower(
        self, request: ChatRequest, route: Route | None, choice: Decision
    ) -> Callable[[RequestRecord], None]:
        """What is to be called when the answer to a request has ended."""
        if not choice.shadows or not isinstance(route, ShadowRoute):
            return lambda _: None

        def follow(primary: RequestRecord) -> None:
            for model in choice.shadows:
                try:
                    self._accept(request, route, model, primary)
                except StoreUnavailable as error:  # nothing runs unrecorded
                    log.warning("%s has no shadow %s: %s", primary.request_id, model, error)
                except Exception:  # the primary's end is no place for another's bugs
                    log.exception("%s has no shadow %s", primary.request_id, model)

        return follow

    def make_way(self) -> None:
        """End all running shadows: a client's request comes."""
        for shadow in self._running.values():
            shadow.yields = True
            if shadow.answer is not None:
                shadow.answer.interrupt(ShadowYielded("a client's request came"))

    def close(self) -> None:
        """End those that run or wait, and take no more; their records say `draining`."""
        self._closed = True
        reason = Draining("the service is shutting down")
        for shadow in self._running.values():
            if shadow.answer is not None:
                shadow.answer.interrupt(reason)
        for shadow in self._waiting:
            shadow.recording.finish("interrupted", reason.code)
        self._waiting.clear()

    async def aclose(self) -> None:
        """Close, and return when none runs any more."""
        self.close()
        if self._running:
            await asyncio.wait(tuple(self._running))

    def _accept(
        self, request: ChatRequest, route: ShadowRoute, model: str, primary: RequestRecord
    ) -> None:
        """Record a shadow, and let it wait for its turn or skip it."""
        clock_ns = self._recorder.clock_ns
        now_ns = clock_ns()
        shadowing = structs.replace(
            request,
            request_id=new_request_id(),
            shadow_of=primary.request_id,
            sticky_key=None,
            deadline_ns=None,
            accepted_ns=now_ns,
            accepted_at_ns=request.accepted_at_ns + now_ns - request.accepted_ns,
        )
        choice = Decision(
            arms=(model,), policy=route.policy, reason=f"{model} shadows {route.primary}"
        )
        recording = self._recorder.accept(shadowing)
        recording.routed(choice)
        waiting = Counter(shadow.route_id for shadow in self._waiting)[request.model]
        if self._closed:
            recording.finish("interrupted", Draining.code)
        elif primary.status != "ok":
            _skip(recording, f"the primary's answer is {primary.status}")
        elif waiting >= route.max_queued:
            _skip(recording, f"{waiting} shadows of this route wait already")
        else:
            expires_s = asyncio.get_running_loop().time() + route.max_wait_s
            self._waiting.append(
                _Shadow(request.model, route, shadowing, choice, recording, expires_s)
            )
            if self._keeper is None:
                self._keeper = asyncio.create_task(self._keep(), name="shadows")

    async def _keep(self) -> None:
        """Start shadows while nobody else is there, and end them when somebody comes."""
        try:
            while not self.idle:
                self._expire()
                if self._others:
                    self.make_way()
                else:
                    self._start()
                await asyncio.sleep(LOOK_S)
        finally:
            self._keeper = None

    @property
    def _others(self) -> bool:
        """Somebody else's request waits or runs, or somebody waits for memory."""
        pool = self._resources.pool
        ours = sum(shadow.answer is not None for shadow in self._running.values())
        return pool.requests > ours or pool.memory.waiting > 0

    def _expire(self) -> None:
        now_s = asyncio.get_running_loop().time()
        for shadow in tuple(self._waiting):
            if shadow.expires_s <= now_s:
                self._waiting.remove(shadow)
                _skip(shadow.recording, f"no spare capacity within {shadow.route.max_wait_s:g} s")

    def _start(self) -> None:
        """Start whose turn it is, as many of each route as may run at once."""
        running = Counter(shadow.route_id for shadow in self._running.values())
        for shadow in tuple(self._waiting):
            if running[shadow.route_id] < shadow.route.max_concurrent:
                running[shadow.route_id] += 1
                self._waiting.remove(shadow)
                task = asyncio.create_task(self._run(shadow), name="shadow")
                self._running[task] = shadow
                task.add_done_callback(self._running.pop)

    async def _run(self, shadow: _Shadow) -> None:
        """Ask the model and discard its answer; the record is all that stays."""
        try:
            await self._make_ready(shadow)
        except TriptychError as error:
            shadow.recording.explain(str(error))
            shadow.recording.fail(error)
            return
        except BaseException as error:
            shadow.recording.fail(error)
            raise
        if self._closed:
            shadow.recording.finish("interrupted", Draining.code)
            return
        if shadow.yields:  # before it began: it waits for the next moment
            shadow.yields = False
            self._waiting.insert(0, shadow)
            return
        shadow.recording.restart_clock()
        deadline_ns = self._recorder.clock_ns() + round(shadow.route.timeout_s * 1e9)
        shadow.answer = Answer(
            self._resources,
            structs.replace(
                shadow.request,
                deadline_ns=deadline_ns,
                accepted_ns=shadow.recording.record.accepted_ns,
            ),
            shadow.choice,
            shadow.recording,
            isolated_within_s=None,
        )
        try:
            async with shadow.answer as answer:
                async for _ in answer:
                    pass
        except TriptychError as error:
            log.debug("shadow %s ended: %s", shadow.request.request_id, error)
        except Exception:
            log.exception("shadow %s failed", shadow.request.request_id)

    async def _make_ready(self, shadow: _Shadow) -> None:
        """Load the model, unless that or the request's state would evict others.

        Raises ShadowSkipped, or the load's own error.
        """
        pool = self._resources.pool
        (model,) = shadow.choice.arms
        if not pool.status(model).loaded:
            async with self._resources.gate.background():
                load_bytes = await asyncio.to_thread(pool.models[model].need_bytes)
            self._check_room(load_bytes, f"{model} is not loaded and its load needs")
            await pool.load(model)
        engine: object = pool.models[model].engine
        if isinstance(engine, Budgeted):
            self._check_room(engine.state_bytes(shadow.request), "its state needs")

    def _check_room(self, need_bytes: int, what: str) -> None:
        memory = self._resources.pool.memory
        free_bytes = max(0, memory.budget_bytes - memory.used_bytes)
        if need_bytes > free_bytes:
            raise ShadowSkipped(
                f"skipped: {what} {human_bytes(need_bytes)}, and {human_bytes(free_bytes)} are free"
            )


def _skip(recording: Recording, reason: str) -> None:
    recording.explain(f"skipped: {reason}")
    recording.fail(ShadowSkipped(reason))
