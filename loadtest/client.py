"""One streamed request, measured from the moment it was planned for."""

import asyncio
import time
from collections.abc import AsyncIterator

import httpx
import msgspec
from msgspec import Struct

from loadtest.corpus import Prompt
from loadtest.observation import Observation, Outcome, ServerMetrics
from loadtest.plan import Sampling

_DONE = b"[DONE]"


class Question(Struct, frozen=True, kw_only=True):
    """A request as it is planned."""

    number: int
    client_request_id: str
    """Sent as `x-request-id`; the service keeps it as a label."""
    model: str
    block: int
    prompt: Prompt
    seed: int
    planned_ns: int


class _Delta(Struct):
    content: str | None = None


class _Choice(Struct):
    delta: _Delta = msgspec.field(default_factory=_Delta)
    finish_reason: str | None = None


class _Usage(Struct):
    prompt_tokens: int
    completion_tokens: int


class _Error(Struct):
    code: str | int | None = None
    type: str | None = None


class _Chunk(Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    metrics: ServerMetrics | None = None
    error: _Error | str | None = None


class _Failure(Exception):
    """The request did not end well: outcome and words."""

    def __init__(self, outcome: Outcome, words: str) -> None:
        super().__init__(words)
        self.outcome = outcome
        self.words = words


class Reading:
    """What has been read of one answer so far."""

    def __init__(self) -> None:
        self.request_id: str | None = None
        self.first_ns: int | None = None
        self.last_ns: int | None = None
        self.chunks = 0
        self.text_bytes = 0
        self.finish_reason: str | None = None
        self.usage: _Usage | None = None
        self.server = ServerMetrics()

    def take(self, payload: bytes, at_ns: int) -> None:
        """One event of the stream."""
        try:
            chunk = msgspec.json.decode(payload, type=_Chunk)
        except msgspec.DecodeError as error:
            raise _Failure("failed", "malformed event") from error
        if chunk.error:
            raise _Failure("failed", f"error event {_code(chunk.error)}")
        self.usage = chunk.usage or self.usage
        self.server = chunk.metrics or self.server
        for choice in chunk.choices[:1]:
            self.finish_reason = choice.finish_reason or self.finish_reason
            if choice.delta.content:
                self.first_ns = self.first_ns or at_ns
                self.last_ns = at_ns
                self.chunks += 1
                self.text_bytes += len(choice.delta.content.encode())


class Client:
    """Sends requests to one service."""

    def __init__(self, http: httpx.AsyncClient, sampling: Sampling, timeout_s: float) -> None:
        self._http = http
        self._sampling = sampling
        self._timeout_s = timeout_s

    async def ask(self, question: Question) -> Observation:
        """Send a request and read its answer; whatever goes wrong is part of the observation."""
        reading = Reading()
        outcome: Outcome = "ok"
        words: str | None = None
        sent_ns = time.monotonic_ns()
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._stream(question, reading)
        except _Failure as failure:
            outcome, words = failure.outcome, failure.words
        except TimeoutError:
            outcome, words = "timeout", "timeout"
        except httpx.HTTPError as error:
            outcome, words = "failed", type(error).__name__
        return _observation(question, reading, outcome, words, sent_ns)

    async def _stream(self, question: Question, reading: Reading) -> None:
        request = self._http.stream(
            "POST",
            "/v1/chat/completions",
            content=msgspec.json.encode(self._body(question)),
            headers={
                "content-type": "application/json",
                "x-request-id": question.client_request_id,
            },
        )
        async with request as response:
            reading.request_id = response.headers.get("x-request-id")
            if response.status_code != httpx.codes.OK:
                raise _Failure("refused", await _status_words(response))
            async for payload in events(response.aiter_raw()):
                if payload == _DONE:
                    break
                reading.take(payload, time.monotonic_ns())
            else:
                raise _Failure("failed", "stream ended without [DONE]")
        if reading.finish_reason is None:
            raise _Failure("failed", "no finish_reason")

    def _body(self, question: Question) -> dict[str, object]:
        body: dict[str, object] = {
            "model": question.model,
            "messages": question.prompt.messages,
            "stream": True,
            "stream_options": {"include_usage": True},
            "max_tokens": self._sampling.max_tokens,
            "temperature": self._sampling.temperature,
        }
        if self._sampling.temperature > 0:
            body["seed"] = question.seed
        if self._sampling.ignore_eos:
            body["ignore_eos"] = True
        return body


async def events(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Payloads of the `data:` lines of an SSE stream, however it is cut into pieces.

    Lines end at line feeds only: text may hold U+2028, which line readers for text split at.
    """
    rest = b""
    async for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                yield line.removeprefix(b"data:").strip()


async def _status_words(response: httpx.Response) -> str:
    try:
        body = msgspec.json.decode(await response.aread(), type=_Chunk)
    except msgspec.DecodeError:
        return f"HTTP {response.status_code}"
    return f"HTTP {response.status_code} {_code(body.error)}".rstrip()


def _code(error: _Error | str | None) -> str:
    match error:
        case _Error():
            return str(error.code or error.type or "")
        case _:
            return ""


def _observation(
    question: Question, reading: Reading, outcome: Outcome, words: str | None, sent_ns: int
) -> Observation:
    usage = reading.usage
    return Observation(
        number=question.number,
        client_request_id=question.client_request_id,
        request_id=reading.request_id,
        model=question.model,
        block=question.block,
        prompt_id=question.prompt.id,
        outcome=outcome,
        error=words,
        planned_ns=question.planned_ns,
        sent_ns=sent_ns,
        first_ns=reading.first_ns,
        last_ns=reading.last_ns,
        chunks=reading.chunks,
        finish_reason=reading.finish_reason,
        prompt_tokens=usage.prompt_tokens if usage else None,
        completion_tokens=usage.completion_tokens if usage else None,
        text_bytes=reading.text_bytes,
        server=reading.server,
    )
