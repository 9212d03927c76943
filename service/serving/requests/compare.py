"""Comparison: one conversation answered by several models, one by one in isolation, or at once."""

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import msgspec
from msgspec import Struct

from service.core.chat import ChatPrompt, ChatRequest, Message, Sampling
from service.core.compare.comparison import ArmDifference, caveats, compare
from service.core.errors import (
    DeadlineExceeded,
    Draining,
    FeatureDisabled,
    InvalidRequest,
    MachineBusy,
    TriptychError,
)
from service.core.events import Delta, EngineEvent, Finished
from service.core.ids import new_request_id
from service.core.metrics import RequestMetrics
from service.core.record import RequestRecord
from service.core.routes.decision import Decision
from service.serving.gate import Isolation
from service.serving.requests.answer import Answer
from service.serving.requests.chat import ChatService

Mode = Literal["isolated", "concurrent"]

ARMS_AT_LEAST = 2
ARMS_AT_MOST = 8

#: An arm's failure that is the whole comparison's, unless another arm has answered already.
_OF_THE_WHOLE = (MachineBusy, DeadlineExceeded, Draining)
_DISTURBANCES = {
    "beside_requests": "an arm ran beside requests that had waited for `compare.max_stall_s`",
    "beside_background": "a model was loaded, or files were hashed, while an arm ran",
}


class ComparedArm(Struct, frozen=True, kw_only=True):
    """A model and how it samples."""

    model: str
    sampling: Sampling
    messages: tuple[Message, ...] | None = None
    """Its own conversation; None: the comparison's."""


class ComparisonRequest(Struct, frozen=True, kw_only=True):
    """Conversation for several arms."""

    comparison_id: str
    request_id: str | None = None
    """Id of arm 0's request, and of the others with a suffix; None draws new ones."""
    route: str | None = None
    """Route that was asked for; None where the arms were named."""
    messages: tuple[Message, ...]
    arms: tuple[ComparedArm, ...]
    mode: Mode = "isolated"
    order_seed: int | None = None
    """Decides the order of the arms; None draws one."""
    stream: bool = False
    prefix_cache: bool = False
    """Let arms continue prefixes of earlier requests; otherwise each computes its whole prompt."""
    cache_salt: str | None = None
    client_request_id: str | None = None
    deadline_ns: int | None = None
    """CLOCK_MONOTONIC by which all arms have to be complete."""


class ArmError(Struct, frozen=True, kw_only=True):
    """Error that kept an arm from answering."""

    code: str
    message: str


class ArmResult(Struct, frozen=True, kw_only=True):
    """An arm's answer; `record` is None for an arm that was not accepted."""

    arm: int
    model: str
    """As the request named it."""
    text: str
    record: RequestRecord | None
    metrics: RequestMetrics | None = None
    error: ArmError | None = None
    difference: ArmDifference | None = None
    """To the first arm; None for the first arm itself, and where either did not answer."""
    waited_ns: int | None = None
    """How long the arm waited for its model, memory and a quiet machine before its clock started;
    None unless it ran isolated."""
    disturbances: tuple[str, ...] = ()
    """What ran beside an isolated arm all the same."""


class ArmEvent(Struct, frozen=True, kw_only=True):
    """An event of an arm's engine."""

    arm: int
    model: str
    event: EngineEvent


class Compared(Struct, frozen=True, kw_only=True):
    """The whole comparison, its last event."""

    comparison_id: str
    mode: Mode
    order: tuple[int, ...]
    """Arms in the order in which they began."""
    order_seed: int
    arms: tuple[ArmResult, ...]
    caveats: tuple[str, ...]


ComparisonEvent = ArmEvent | ArmResult | Compared


class CompareService:
    """Runs comparisons on the path that all requests take."""

    def __init__(
        self,
        chat: ChatService,
        *,
        enabled: bool = True,
        max_wait_s: float = 30.0,
        clock_ns: Callable[[], int] = time.monotonic_ns,
        wall_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._chat = chat
        self._enabled = enabled
        self._max_wait_s = max_wait_s
        self._clock_ns = clock_ns
        self._wall_ns = wall_ns

    async def run(self, comparison: ComparisonRequest) -> AsyncGenerator[ComparisonEvent]:
        """Yield arms' events as they happen, each arm's result, and the whole at the end.

        An arm's failure is its result and stops no other arm. Closing the generator cancels all.

        Raises:
            FeatureDisabled: the operator has switched comparisons off.
            MachineBusy: no quiet moment for the first isolated arm.
            DeadlineExceeded, Draining: before an arm has answered.
            DoesNotFit: concurrent arms cannot be in memory together.
        """
        if not self._enabled:
            raise FeatureDisabled("Comparisons are disabled (`compare.enabled`).")
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
        run = _Run(comparison, self._open)
        running = asyncio.create_task(run.arms(order))
        running.add_done_callback(lambda _: run.events.put_nowait(None))
        try:
            while (event := await run.events.get()) is not None:
                yield event
            running.result()
        finally:
            running.cancel()
            await asyncio.wait([running])
        yield _compared(comparison, tuple(order), seed, [run.results[arm] for arm in range(count)])

    def _open(self, comparison: ComparisonRequest, number: int) -> Answer:
        """Open the answer of an arm; its clock starts now, not with the comparison's."""
        arm = comparison.arms[number]
        if arm.model in self._chat.router.routes:
            raise InvalidRequest(f"`{arm.model}` is a route; name the models to compare")
        request_id = comparison.request_id or new_request_id()
        if comparison.request_id is not None and number:
            request_id = f"{request_id}-{number}"
        request = ChatRequest(
            request_id=request_id,
            model=comparison.route or arm.model,
            prompt=ChatPrompt(comparison.messages if arm.messages is None else arm.messages),
            sampling=arm.sampling,
            endpoint="compare",
            stream=comparison.stream,
            prefix_cache=comparison.prefix_cache,
            cache_salt=comparison.cache_salt,
            client_request_id=comparison.client_request_id,
            comparison_id=comparison.comparison_id,
            deadline_ns=comparison.deadline_ns,
            arm=number,
            accepted_ns=self._clock_ns(),
            accepted_at_ns=self._wall_ns(),
        )
        within_s = self._max_wait_s if comparison.mode == "isolated" else None
        choice = None
        if comparison.route is not None:
            choice = Decision(arms=(arm.model,), policy="compare", reason=f"arm {number}")
        return self._chat.open(request, isolated_within_s=within_s, choice=choice)


class _Run:
    """A running comparison."""

    def __init__(
        self, comparison: ComparisonRequest, open_arm: Callable[[ComparisonRequest, int], Answer]
    ) -> None:
        self.results: dict[int, ArmResult] = {}
        # Unbounded, but for the answers' own length: an arm that is measured must never wait for
        # the client to read.
        self.events: asyncio.Queue[ComparisonEvent | None] = asyncio.Queue()
        self._comparison = comparison
        self._open_arm = open_arm

    async def arms(self, order: Sequence[int]) -> None:
        """Run all arms. Raises what keeps every one of them from answering."""
        if self._comparison.mode == "isolated":
            for number in order:
                self._settle({number: await self._arm(number)})
            return
        async with asyncio.TaskGroup() as group:
            tasks = {number: group.create_task(self._arm(number)) for number in order}
        self._settle({number: task.result() for number, task in tasks.items()})

    async def _arm(self, number: int) -> TriptychError | None:
        """Run one arm to its result; the failure that ended it, if any."""
        arm = _RunningArm(number, self._comparison.arms[number].model)
        failure = None
        try:
            await self._answer(arm)
        except TriptychError as error:
            failure = error
        self.results[number] = arm.result(failure)
        if not isinstance(failure, _OF_THE_WHOLE):
            self.events.put_nowait(self.results[number])
        return failure

    def _settle(self, failures: Mapping[int, TriptychError | None]) -> None:
        """Raise a failure that is the whole comparison's, or make it the arm's result."""
        answered = any(arm.error is None for arm in self.results.values())
        for number, failure in failures.items():
            if isinstance(failure, _OF_THE_WHOLE):
                if not answered:
                    raise failure
                self.events.put_nowait(self.results[number])

    async def _answer(self, arm: "_RunningArm") -> None:
        answer = self._open_arm(self._comparison, arm.number)
        try:
            async with answer:
                async for event in answer:
                    if isinstance(event, Delta | Finished):
                        arm.texts.append(event.text)
                    self.events.put_nowait(ArmEvent(arm=arm.number, model=arm.model, event=event))
        finally:  # closed, so that its record is final
            arm.record, arm.metrics = answer.record, answer.metrics
            arm.isolation = answer.isolation
            if answer.isolation is not None:
                arm.waited_ns = answer.record.accepted_ns - answer.request.accepted_ns


@dataclass(slots=True)
class _RunningArm:
    """State of a running arm."""

    number: int
    model: str
    texts: list[str] = field(default_factory=list)
    record: RequestRecord | None = None
    metrics: RequestMetrics | None = None
    isolation: Isolation | None = None
    waited_ns: int | None = None

    def result(self, failure: TriptychError | None) -> ArmResult:
        isolation = self.isolation
        return ArmResult(
            arm=self.number,
            model=self.model,
            text="".join(self.texts),
            record=self.record,
            metrics=self.metrics,
            error=None if failure is None else ArmError(code=failure.code, message=str(failure)),
            waited_ns=self.waited_ns,
            disturbances=tuple(
                words for name, words in _DISTURBANCES.items() if getattr(isolation, name, False)
            ),
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
        caveats=(
            *caveats(
                [arm.record for arm in arms],
                [arm.text for arm in arms if arm.error is None],
                mode=comparison.mode,
            ),
            *dict.fromkeys(words for arm in arms for words in arm.disturbances),
        ),
    )
