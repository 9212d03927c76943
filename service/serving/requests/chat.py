"""ChatService: accepts a request, records it, routes it and returns its answer."""

import random
from collections.abc import Callable, Mapping
from weakref import WeakSet

from service.core.chat import ChatRequest
from service.core.errors import ConfigError, Draining, TriptychError
from service.core.routes.route import Route
from service.serving.gate import Gate
from service.serving.models.engine_life import RETRY_AFTER_DRAIN_S
from service.serving.models.pool import Pool
from service.serving.requests.answer import Answer, Resources
from service.serving.requests.recorder import Recorder
from service.serving.requests.router import choose


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
        self._resources = Resources(pool=pool, gate=gate)
        self._random = random
        self._answers: WeakSet[Answer] = WeakSet()

    def open(self, request: ChatRequest, *, isolated_within_s: float | None = None) -> Answer:
        """Accept and record a request and choose its model; nothing is started yet.

        With *isolated_within_s* it runs while nothing else does, or raises MachineBusy when it has
        waited so long for that. Its clock starts when it runs.

        Raises ModelNotFound.
        """
        recording = self.recorder.accept(request)
        try:
            choice = choose(
                request,
                self.routes,
                self.pool.statuses,
                random=self._random(),
                resting=self._resources.setbacks.resting,
            )
        except TriptychError as error:
            recording.fail(error)
            raise
        recording.routed(choice.policy, choice.reason)
        answer = Answer(
            self._resources, request, choice, recording, isolated_within_s=isolated_within_s
        )
        self._answers.add(answer)
        return answer

    def interrupt(self) -> None:
        """End every answer that still waits or runs, and subscriptions: readers get Draining."""
        for answer in tuple(self._answers):
            answer.interrupt(_draining("did not finish this answer"))
        self.pool.events.close(_draining("sends no more events"))


def _draining(what: str) -> Draining:
    return Draining(f"The service is shutting down and {what}.", retry_after_s=RETRY_AFTER_DRAIN_S)


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
