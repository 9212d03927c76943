"""One conversation, several models: measured one after another, or together."""

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Literal

import msgspec
from msgspec import Struct

from service.core.chat import ChatPrompt, ChatRequest, Message, Sampling
from service.core.comparison import ArmDifference, caveats, compare
from service.core.errors import InvalidRequest, TriptychError
from service.core.events import Delta, EngineEvent, Finished
from service.core.ids import new_request_id
from service.core.record import RequestRecord
from service.serving.requests.chat import ChatService

Mode = Literal["isolated", "concurrent"]

ARMS_AT_LEAST = 2
ARMS_AT_MOST = 8


class ComparedArm(Struct, frozen=True, kw_only=True):
    """Who is asked, and how."""

    model: str
    sampling: Sampling


class ComparisonRequest(Struct, frozen=True, kw_only=True):
    """One conversation for several arms."""

    comparison_id: str
    messages: tuple[Message, ...]
    arms: tuple[ComparedArm, ...]
    mode: Mode = "isolated"
    order_seed: int | None = None
    """Decides the order; None draws one."""
    stream: bool = False
    client_request_id: str | None = None


class ArmError(Struct, frozen=True, kw_only=True):
    """Why an arm did not answer."""

    code: str
    message: str


class ArmResult(Struct, frozen=True, kw_only=True):
    """One arm's answer; `record` is None for an arm that could not even be accepted."""

    arm: int
    model: str
    """As the request named it."""
    text: str
    record: RequestRecord | None
    error: ArmError | None = None
    difference: ArmDifference | None = None
    """To the first arm; None for the first arm itself, and where either did not answer."""


class ArmEvent(Struct, frozen=True, kw_only=True):
    """Something an arm's engine said."""

    arm: int
    model: str
    event: EngineEvent


class Compared(Struct, frozen=True, kw_only=True):
    """The whole comparison, its last event."""

    comparison_id: str
    mode: Mode
    order: tuple[int, ...]
    """In which order the arms began."""
    order_seed: int
    arms: tuple[ArmResult, ...]
    caveats: tuple[str, ...]


ComparisonEvent = ArmEvent | ArmResult | Compared
_Events = asyncio.Queue[ComparisonEvent | None]


class CompareService:
    """Runs comparisons on the path that all requests take."""

    def __init__(
        self,
        chat: ChatService,
        *,
        clock_ns: Callable[[], int] = time.monotonic_ns,
        wall_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._chat = chat
        self._clock_ns = clock_ns
        self._wall_ns = wall_ns

    async def run(self, comparison: ComparisonRequest) -> AsyncGenerator[ComparisonEvent]:
        """Yield arms' events as they happen, each arm's result, and the whole at the end.

        An arm's failure is its result and stops no other arm. Closing the generator cancels all.
        """
        count = len(comparison.arms)
        if not ARMS_AT_LEAST <= count <= ARMS_AT_MOST:
            raise InvalidRequest(
                f"a comparison has {ARMS_AT_LEAST} to {ARMS_AT_MOST} arms, not {count}",
                param="arms",
            )
        if comparison.mode == "concurrent":
            # Else one arm would wait for another to be unloaded, and nothing would be concurrent.
            await self._chat.pool.check_together([arm.model for arm in comparison.arms])
        seed = comparison.order_seed
        if seed is None:
            seed = random.SystemRandom().getrandbits(31)
        order = list(range(count))
        random.Random(seed).shuffle(order)  # noqa: S311 (an order to be repeated, not a secret)
        # Unbounded, but for the answers' own length: an arm that is measured must never wait for
        # the client to read.
        events: _Events = asyncio.Queue()
        results: dict[int, ArmResult] = {}
        running = asyncio.create_task(self._run(comparison, order, events, results))
        running.add_done_callback(lambda _: events.put_nowait(None))
        try:
            while (event := await events.get()) is not None:
                yield event
            running.result()
        finally:
            running.cancel()
            await asyncio.wait([running])
        yield _compared(comparison, tuple(order), seed, [results[arm] for arm in range(count)])

    async def _run(
        self,
        comparison: ComparisonRequest,
        order: Sequence[int],
        events: _Events,
        results: dict[int, ArmResult],
    ) -> None:
        if comparison.mode == "isolated":
            for arm in order:
                results[arm] = await self._arm(comparison, arm, events)
            return
        async with asyncio.TaskGroup() as group:
            tasks = {arm: group.create_task(self._arm(comparison, arm, events)) for arm in order}
        results.update({arm: task.result() for arm, task in tasks.items()})

    async def _arm(self, comparison: ComparisonRequest, arm: int, events: _Events) -> ArmResult:
        """One arm, from its request to its result."""
        if comparison.mode == "concurrent":
            result = await self._answered(comparison, arm, events)
        else:
            # Loaded before the gate closes: nobody else should wait for this model's load. The arms
            # need not fit beside each other: each stays until it has answered.
            async with (
                self._chat.pool.held(self._request(comparison, arm)),
                self._chat.gate.exclusive(),
            ):
                result = await self._answered(comparison, arm, events)
        events.put_nowait(result)
        return result

    async def _answered(
        self, comparison: ComparisonRequest, arm: int, events: _Events
    ) -> ArmResult:
        name = comparison.arms[arm].model
        texts: list[str] = []
        answer = None
        try:
            if name in self._chat.routes:
                raise InvalidRequest(f"`{name}` is a route; name the models to compare")
            request = self._request(comparison, arm)
            isolated = comparison.mode == "isolated"
            async with self._chat.open(request, isolated=isolated) as answer:
                async for event in answer:
                    if isinstance(event, Delta | Finished):
                        texts.append(event.text)
                    events.put_nowait(ArmEvent(arm=arm, model=name, event=event))
        except TriptychError as error:
            failure = ArmError(code=error.code, message=str(error))
            record = answer.record if answer else None
            return ArmResult(arm=arm, model=name, text="".join(texts), record=record, error=failure)
        return ArmResult(arm=arm, model=name, text="".join(texts), record=answer.record)

    def _request(self, comparison: ComparisonRequest, arm: int) -> ChatRequest:
        """The arm's request; its clock starts now, not when the comparison came in."""
        return ChatRequest(
            request_id=new_request_id(),
            model=comparison.arms[arm].model,
            prompt=ChatPrompt(comparison.messages),
            sampling=comparison.arms[arm].sampling,
            endpoint="compare",
            stream=comparison.stream,
            client_request_id=comparison.client_request_id,
            comparison_id=comparison.comparison_id,
            arm=arm,
            accepted_ns=self._clock_ns(),
            accepted_at_ns=self._wall_ns(),
        )


def _compared(
    comparison: ComparisonRequest, order: tuple[int, ...], seed: int, arms: Sequence[ArmResult]
) -> Compared:
    first = arms[0].record
    compared = [arms[0]]
    for arm in arms[1:]:
        both = arm.error is None and arms[0].error is None
        difference = compare(arm.record, first) if both and arm.record and first else None
        compared.append(msgspec.structs.replace(arm, difference=difference))
    return Compared(
        comparison_id=comparison.comparison_id,
        mode=comparison.mode,
        order=order,
        order_seed=seed,
        arms=tuple(compared),
        caveats=caveats(
            [arm.record for arm in arms],
            [arm.text for arm in arms if arm.error is None],
            mode=comparison.mode,
        ),
    )
