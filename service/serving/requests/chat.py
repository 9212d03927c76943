"""ChatService: accepts a request, records it, routes it and returns its answer."""

import random
from collections.abc import Callable
from weakref import WeakSet

from service.core.chat import ChatRequest
from service.core.errors import Draining, TriptychError
from service.core.routes.decision import Decision
from service.serving.gate import Gate
from service.serving.models.engine_life import RETRY_AFTER_DRAIN_S
from service.serving.models.pool import Pool
from service.serving.requests.answer import Answer, Resources
from service.serving.requests.recorder import Recorder
from service.serving.requests.shadows import Shadows
from service.serving.routes.router import Router


class ChatService:
    """Answers requests: chat, completion and compare alike."""

    def __init__(
        self,
        pool: Pool,
        recorder: Recorder,
        gate: Gate,
        router: Router,
        *,
        random: Callable[[], float] = random.random,
    ) -> None:
        self.pool = pool
        self.recorder = recorder
        self.gate = gate
        self.router = router
        self._resources = Resources(pool=pool, gate=gate)
        self._random = random
        self._answers: WeakSet[Answer] = WeakSet()
        self.shadows = Shadows(self._resources, recorder)

    def open(
        self,
        request: ChatRequest,
        *,
        isolated_within_s: float | None = None,
        choice: Decision | None = None,
    ) -> Answer:
        """Accept and record a request and choose its model; nothing is started yet.

        With *isolated_within_s* it runs while nothing else does, or raises MachineBusy when it has
        waited so long for that. Its clock starts when it runs. With *choice* its model is decided.

        Raises ModelNotFound.
        """
        self.shadows.make_way()
        recording = self.recorder.accept(request)
        try:
            choice = choice or self.router.choose(
                request, random=self._random(), resting=self._resources.setbacks.resting
            )
        except TriptychError as error:
            recording.fail(error)
            raise
        recording.routed(choice)
        answer = Answer(
            self._resources,
            request,
            choice,
            recording,
            isolated_within_s=isolated_within_s,
            ended=self.shadows.follower(request, self.router.routes.get(request.model), choice),
        )
        self._answers.add(answer)
        return answer

    def interrupt(self) -> None:
        """End every answer that still waits or runs, and subscriptions: readers get Draining."""
        self.shadows.close()
        for answer in tuple(self._answers):
            answer.interrupt(_draining("did not finish this answer"))
        self.pool.events.close(_draining("sends no more events"))


def _draining(what: str) -> Draining:
    return Draining(f"The service is shutting down and {what}.", retry_after_s=RETRY_AFTER_DRAIN_S)
