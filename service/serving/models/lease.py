"""A place in a model's queue, held from admission until the answer has ended."""

import time
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Self

from service.core.chat import ChatRequest
from service.core.ports import Budgeted, Engine
from service.serving.memory.device_memory import Booked

if TYPE_CHECKING:
    from service.serving.models.hosted_model import HostedModel


class Lease:
    """A place in a model's queue, to be used as a context."""

    def __init__(
        self, hosted: "HostedModel", clock_ns: Callable[[], int] = time.monotonic_ns
    ) -> None:
        hosted.queue.enter(hosted.slots)
        self._hosted = hosted
        self._clock_ns = clock_ns
        self._ready_ns: int | None = None
        self._service_s: float | None = None
        self._use = Use(hosted)
        self.load_ns: int | None = None
        """How long `ready` waited for the model to load; None if it was loaded already."""

    async def ready(self, request: ChatRequest | None = None, *, load: bool = True) -> Engine:
        """The model's engine, loaded first if need be, with room for the request's state.

        Raises ModelNotReady, DoesNotFit or Overloaded.
        """
        engine = await self._use.begin(request, load=load)
        self.load_ns = self._use.load_ns
        self._ready_ns = self._clock_ns()
        return engine

    def started(self, prompt_tokens: int | None) -> None:
        """Correct what is booked, now that the prompt's length is known."""
        if prompt_tokens is not None:
            self._use.correct(prompt_tokens)

    def complete(self) -> None:
        """Note that the answer came to its end: only then its time says how long answers take."""
        assert self._ready_ns is not None
        self._service_s = (self._clock_ns() - self._ready_ns) / 1e9

    @property
    def verified(self) -> bool | None:
        """Whether the model passed its conformance probe."""
        return self._hosted.verified

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
    """A loaded model that cannot be unloaded meanwhile, and room for one request's state."""

    def __init__(self, hosted: "HostedModel") -> None:
        self._hosted = hosted
        self._entered = False
        self._booked: Booked | None = None
        self._with_prompt: Callable[[int], int] | None = None
        self.load_ns: int | None = None

    async def begin(self, request: ChatRequest | None, *, load: bool = True) -> Engine:
        """Load if need be, then book; without `load` take what is there and book nothing."""
        engine, self.load_ns = await self._hosted.enter(load=load)
        self._entered = True
        if load and request is not None and isinstance(engine, Budgeted):
            memory, of_request = self._hosted.memory, partial(engine.state_bytes, request)
            self._with_prompt = lambda prompt_tokens: of_request(prompt_tokens=prompt_tokens)
            state_bytes = of_request()
            self._booked = memory.try_book(self._hosted, state_bytes)
            if self._booked is None:
                self._booked = await memory.book(self._hosted, state_bytes)
        return engine

    def correct(self, prompt_tokens: int) -> None:
        """Book what the request needs with a prompt of so many tokens."""
        if self._booked is not None and self._with_prompt is not None:
            self._booked.correct(self._with_prompt(prompt_tokens))

    def end(self) -> None:
        """Free the state and let the model go; nothing if it was never ready."""
        if self._booked is not None:
            self._booked.release()
            self._booked = None
        if self._entered:
            self._entered = False
            self._hosted.leave()
