"""Client: writes streamed chat requests, has them sent, and observes the answers."""

import itertools

import msgspec
from msgspec import Struct

from loadtest.address import Address
from loadtest.answer import Reading
from loadtest.corpus import Prompt
from loadtest.observation import Observation
from loadtest.plan import Sampling
from loadtest.wire.messages import Exchange, Send
from loadtest.wire.process import WireProcess


class Question(Struct, frozen=True, kw_only=True):
    """A planned request."""

    number: int
    client_request_id: str
    """Sent as `x-request-id`; the service keeps it as a label."""
    model: str
    block: int
    prompt: Prompt
    seed: int
    planned_ns: int


class Client:
    """Sends requests to one service."""

    def __init__(
        self, wire: WireProcess, address: Address, sampling: Sampling, timeout_s: float
    ) -> None:
        self._wire = wire
        self._address = address
        self._sampling = sampling
        self._timeout_s = timeout_s
        self._keys = itertools.count()

    async def ask(self, question: Question) -> Observation:
        """Have a request sent at its time; whatever goes wrong is part of the observation.

        Raises:
            LoadTestError: The measuring process died.
        """
        request = self._address.post(
            "/v1/chat/completions",
            body(question, self._sampling),
            request_id=question.client_request_id,
        )
        exchange = await self._wire.exchange(
            Send(
                key=next(self._keys),
                planned_ns=question.planned_ns,
                request=request,
                timeout_s=self._timeout_s,
            )
        )
        return observe(question, exchange)


def body(question: Question, sampling: Sampling) -> bytes:
    """Body of a chat request, as the plan's sampling says."""
    fields: dict[str, object] = {
        "model": question.model,
        "messages": question.prompt.messages,
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
    }
    if sampling.temperature > 0:
        fields["seed"] = question.seed
    if sampling.ignore_eos:
        fields["ignore_eos"] = True
    return msgspec.json.encode(fields)


def observe(question: Question, exchange: Exchange) -> Observation:
    """Derive the observation of a request from its exchange."""
    reading = Reading(exchange)
    return Observation(
        number=question.number,
        client_request_id=question.client_request_id,
        request_id=exchange.request_id or reading.server.request_id,
        model=question.model,
        block=question.block,
        prompt_id=question.prompt.id,
        outcome=reading.outcome,
        error=reading.error,
        planned_ns=question.planned_ns,
        dispatched_ns=exchange.dispatched_ns,
        sent_ns=exchange.sent_ns,
        first_ns=reading.first_ns,
        last_ns=reading.last_ns,
        ended_ns=exchange.ended_ns,
        chunks=reading.chunks,
        finish_reason=reading.finish_reason,
        prompt_tokens=reading.prompt_tokens,
        completion_tokens=reading.completion_tokens,
        text_bytes=reading.text_bytes,
        first_text_bytes=reading.first_text_bytes,
        cold=reading.server.cold,
        verified=reading.server.verified,
    )
