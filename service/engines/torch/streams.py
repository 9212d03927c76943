"""Streams: the requests in flight in the torch host, as the service sees them."""

import asyncio
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

import msgspec

from service.core.errors import EngineDied, InvalidRequest, TriptychError
from service.core.events import EngineEvent, Started, TokenLogprob


@dataclass(slots=True)
class Stream:
    """Events of one request, from the host to its consumer."""

    arrived: asyncio.Queue[EngineEvent | TriptychError] = field(default_factory=asyncio.Queue)
    scores: list[TokenLogprob] = field(default_factory=list)
    """Log-probabilities of the prompt so far, for `Started`."""
    started: bool = False
    """Whether an event has arrived."""

    async def next(self) -> EngineEvent:
        """The next event; raises the error that ended the request."""
        event = await self.arrived.get()
        if isinstance(event, TriptychError):
            raise event
        return event


class Streams:
    """Streams by request id."""

    def __init__(self) -> None:
        self._streams: dict[str, Stream] = {}

    def __len__(self) -> int:
        """Requests that wait or run."""
        return len(self._streams)

    def open(self, request_id: str) -> Stream:
        """Begin a stream. Raises InvalidRequest for an id that is in use."""
        if request_id in self._streams:
            raise InvalidRequest(f"The request id {request_id} is already in use.")
        stream = self._streams[request_id] = Stream()
        return stream

    def close(self, request_id: str) -> None:
        """Remove a stream; events that still arrive for it are dropped."""
        del self._streams[request_id]

    def deliver(self, request_id: str, event: EngineEvent | TriptychError) -> None:
        """Pass an event to its stream, if that is still open."""
        stream = self._streams.get(request_id)
        if stream is None:
            return
        stream.started = True
        if isinstance(event, Started) and stream.scores:
            event = msgspec.structs.replace(event, prompt_logprobs=tuple(stream.scores))
            stream.scores.clear()
        stream.arrived.put_nowait(event)

    def score(self, request_id: str, scores: Iterable[TokenLogprob]) -> None:
        """Keep scores of a request's prompt for its `Started`."""
        stream = self._streams.get(request_id)
        if stream is not None:
            stream.started = True
            stream.scores += scores

    def fail(self, error: TriptychError) -> None:
        """End all streams with one error."""
        for stream in self._streams.values():
            stream.arrived.put_nowait(error)

    def lose(
        self, reason: str, *, retry_after_s: float | None, last_step: Collection[str] | None
    ) -> None:
        """End all streams with EngineDied, each as a suspect or not.

        Args:
            reason: How the host died.
            retry_after_s: Seconds until it is started again.
            last_step: Requests of the step that it died in. If none of them is left, it died
                between steps, and the requests that had not started are the suspects. None if no
                request can have caused the death.
        """
        in_step = self._streams.keys() & set(last_step or ())
        for request_id, stream in self._streams.items():
            suspect = last_step is not None and (
                request_id in in_step if in_step else not stream.started
            )
            error = EngineDied(reason, retry_after_s=retry_after_s, suspect=suspect)
            stream.arrived.put_nowait(error)
