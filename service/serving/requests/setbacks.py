"""Setbacks: models that failed recently, which routes avoid for a while."""

import time
from collections.abc import Callable, Mapping
from typing import Final

from service.core.errors import EngineFailed, ModelNotFound, ModelNotReady, TriptychError

LOAD_REST_S: Final = 30.0
"""After a load that failed: a load is expensive, and seldom mends itself."""

ENGINE_REST_S: Final = 5.0
"""After an engine that failed: its process is started again within seconds."""


class Setbacks:
    """Remembers by model id which failure keeps a model out of routes, until when.

    Requests that name the model itself are not affected.
    """

    def __init__(self, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._clock_s = clock_s
        self._until: dict[str, tuple[str, float]] = {}

    def __repr__(self) -> str:
        return f"<Setbacks {self.resting}>"

    def note(self, model: str, error: TriptychError) -> None:
        """Keep a model out of routes if the error is the model's fault, not the request's."""
        match error:
            case EngineFailed():
                rest_s = ENGINE_REST_S
            case ModelNotReady() | ModelNotFound():
                rest_s = LOAD_REST_S
            case _:
                return
        self._until[model] = error.code, self._clock_s() + rest_s

    def clear(self, model: str) -> None:
        """Forget a model that has answered."""
        if self._until:
            self._until.pop(model, None)

    @property
    def resting(self) -> Mapping[str, str]:
        """Error codes by model."""
        if not self._until:
            return {}
        now_s = self._clock_s()
        return {model: code for model, (code, until_s) in self._until.items() if until_s > now_s}
