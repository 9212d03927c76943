"""The requests that an engine process answers, as the service sees them."""

import asyncio
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

import msgspec

from service.core.errors import EngineDied, InvalidRequest, TriptychError
from service.core.events import EngineEvent, Finished, Started, TokenLogprob


@dataclass(slots=True)
class Stream:
    """One request's events, from the process to whoever asked."""

    model_id: str
    arrived: asyncio.Queue[EngineEvent | TriptychError] = field(default_factory=asyncio.Queue)
    scores: list[TokenLogprob] = field(default_factory=list)
    """Of the prompt, until `Started` takes them along."""
    started: bool = False
    """Whether the engine was heard of it."""
    ended: bool = False
    """Whether its last event was handed on."""

    async def next(self) -> EngineEvent:
        """What arrives next, or raise the error that arrived."""
        event = await self.arrived.get()
        self.ended = isinstance(event, Finished | TriptychError)
        if isinstance(event, TriptychError):
            raise event
        return event


class Streams:
    """Streams by request id, and which models have answered a request in this life."""

    def __init__(self) -> None:
        self._streams: dict[str, Stream] = {}
        self._answered: set[str] = set()

    def __len__(self) -> int:
        """Requests that wait or run."""
        return len(self._streams)

    @property
    def new(self) -> bool:
        """Whether any is for a model that has not answered yet: its first steps may compile."""
        return any(stream.model_id not in self._answered for stream in self._streams.values())

    def of(self, model_id: str) -> int:
        """Requests of one model that wait or run."""
        return sum(stream.model_id == model_id for stream in self._streams.values())

    def open(self, request_id: str, model_id: str) -> Stream:
        """Begin a stream. Raises InvalidRequest for an id that is in use."""
        if request_id in self._streams:
            raise InvalidRequest(f"The request id {request_id} is already in use.")
        stream = self._streams[request_id] = Stream(model_id)
        return stream

    def close(self, request_id: str) -> None:
        """Forget a stream: what still arrives for it is dropped."""
        del self._streams[request_id]

    def deliver(self, request_id: str, event: EngineEvent | TriptychError) -> None:
        """Hand an event to its request, if that still listens."""
        stream = self._streams.get(request_id)
        if stream is None:
            return
        stream.started = True
        if isinstance(event, Started) and stream.scores:
            event = msgspec.structs.replace(event, prompt_logprobs=tuple(stream.scores))
            stream.scores.clear()
        if isinstance(event, Finished):
            self._answered.add(stream.model_id)
        stream.arrived.put_nowait(event)

    def score(self, request_id: str, scores: Iterable[TokenLogprob]) -> None:
        """Keep scores of a request's prompt until it has started."""
        stream = self._streams.get(request_id)
        if stream is not None:
            stream.started = True
            stream.scores += scores

    def forget(self, model_id: str) -> None:
        """A model was unloaded: loaded again, it is new."""
        self._answered.discard(model_id)

    def fail(self, error: TriptychError) -> None:
        """End all of them with one error."""
        for stream in self._streams.values():
            stream.arrived.put_nowait(error)

    def lose(
        self, reason: str, *, retry_after_s: float | None, last_step: Collection[str] | None
    ) -> None:
        """The process died: end all of them, each as suspect or not.

        Args:
            reason: How it died.
            retry_after_s: Seconds until it is started again.
            last_step: Requests of the step that it was in. If none of them is left, it was between
                steps, and those that had not begun are suspects. None, if the death was not a
                request's doing.
        """
        self._answered.clear()
        in_step = self._streams.keys() & set(last_step or ())
        for request_id, stream in self._streams.items():
            suspect = last_step is not None and (
                request_id in in_step if in_step else not stream.started
            )
            error = EngineDied(reason, retry_after_s=retry_after_s, suspect=suspect)
            stream.arrived.put_nowait(error)
