"""A streamed chat answer read out of a finished exchange: text, counts and the stamps of both."""

import msgspec
from msgspec import Struct

from loadtest.observation import Outcome
from loadtest.wire.messages import Exchange
from service.core.sse import SseReader

_DONE = b"[DONE]"
_OK = 200


class ServerMetrics(Struct, frozen=True, kw_only=True):
    """Metrics that a Triptych service sends with its last chunk; None where it sends none."""

    request_id: str | None = None
    cold: bool | None = None
    verified: bool | None = None


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


class _Wrong(Exception):
    """The answer is not a whole and well-formed stream; says why."""


class Reading:
    """Content of an answer, and the arrival times of its text.

    An event counts as arrived at the stamp of the chunk that completed it: events that the service
    wrote together, or the kernel joined, have the same stamp.
    """

    def __init__(self, exchange: Exchange) -> None:
        self.first_ns: int | None = None
        self.last_ns: int | None = None
        self.chunks = 0
        self.text_bytes = 0
        self.first_text_bytes = 0
        self.finish_reason: str | None = None
        self.prompt_tokens: int | None = None
        self.completion_tokens: int | None = None
        self.server = ServerMetrics()
        self.outcome: Outcome = "ok"
        self.error: str | None = None
        if exchange.status not in (None, _OK):
            self._refused(exchange)
            return
        try:
            self._read(exchange)
        except _Wrong as wrong:
            self.outcome, self.error = "failed", str(wrong)
        if exchange.problem == "timeout":
            self.outcome, self.error = "timeout", "timeout"

    def _refused(self, exchange: Exchange) -> None:
        self.outcome, self.error = "refused", f"HTTP {exchange.status}"
        try:
            body = msgspec.json.decode(b"".join(body for _, body in exchange.pieces), type=_Chunk)
        except msgspec.DecodeError:
            return
        self.error = f"{self.error} {_code(body.error)}".rstrip()

    def _read(self, exchange: Exchange) -> None:
        events, done = SseReader(), False
        for at_ns, received in exchange.pieces:
            try:
                for payload in events.push(received):
                    done = done or payload == _DONE
                    if not done:
                        self._take(payload, at_ns)
            except ValueError as error:
                raise _Wrong(str(error)) from error
        if exchange.problem is not None:
            raise _Wrong(exchange.problem)
        if not done:
            raise _Wrong("stream ended without [DONE]")
        if self.finish_reason is None:
            raise _Wrong("no finish_reason")

    def _take(self, payload: bytes, at_ns: int) -> None:
        try:
            chunk = msgspec.json.decode(payload, type=_Chunk)
        except msgspec.DecodeError as error:
            raise _Wrong("malformed event") from error
        if chunk.error:
            raise _Wrong(f"error event {_code(chunk.error)}".rstrip())
        if chunk.usage is not None:
            self.prompt_tokens = chunk.usage.prompt_tokens
            self.completion_tokens = chunk.usage.completion_tokens
        self.server = chunk.metrics or self.server
        for choice in chunk.choices[:1]:
            self.finish_reason = choice.finish_reason or self.finish_reason
            if choice.delta.content:
                self.first_ns = self.first_ns or at_ns
                self.last_ns = at_ns
                self.chunks += 1
                text_bytes = len(choice.delta.content.encode())
                self.text_bytes += text_bytes
                if at_ns == self.first_ns:
                    self.first_text_bytes += text_bytes


def _code(error: _Error | str | None) -> str:
    match error:
        case _Error():
            return str(error.code or error.type or "")
        case _:
            return ""
