"""Answer of another server as it arrives, translated into events."""

import logging
import time
from collections.abc import Callable
from typing import Final

import msgspec

from service.core.chat import ChatRequest
from service.core.events import (
    Delta,
    EngineEvent,
    Finished,
    FinishReason,
    ModelBuild,
    Started,
    StateBytes,
    TokenLogprob,
)
from service.engines.openai.dialects import cached_tokens, prefill_ms
from service.engines.openai.errors import FarSide
from service.engines.openai.schema import Choice, Chunk, decode_chunk, named, token_logprobs

log = logging.getLogger(__name__)

_DONE: Final = b"[DONE]"

_FAILURES: Final = ("abort", "cancelled", "error")
"""Finish reasons of answers that were broken off: vLLM's, and what others call the same."""

UNKNOWN_VERSION: Final = "unknown"
"""Version of a server that does not report one."""


class ArrivingAnswer:
    """Answer that is being received, chunk by chunk."""

    def __init__(
        self,
        request: ChatRequest,
        far_side: FarSide,
        limit_tokens: int | None,
        prompt_text: str | None,
    ) -> None:
        self._request = request
        self._prompt_text = prompt_text
        self._far_side = far_side
        self._limit_tokens = limit_tokens
        self._queued_ns = time.monotonic_ns()
        self._started = False
        self._reason: FinishReason | None = None
        self._tokens: int | None = 0
        """Tokens of the answer so far; None if the server does not report them."""
        self._pieces = 0
        self._prompt_tokens: int | None = None
        self._first_ns: int | None = None
        self._last_ns: int | None = None
        self._last = Chunk()
        """Last chunk with usage, metrics or timings."""
        self._fingerprint: str | None = None
        self._done = False
        self.cut = False
        """It reached a limit that the server was not told of, and was ended here."""

    @property
    def pieces(self) -> int:
        """Pieces of the answer that have arrived, each with one token or more."""
        return self._pieces

    @property
    def complete(self) -> bool:
        """The stream's last event has arrived."""
        return self._done

    def take(self, data: bytes, at_ns: int) -> list[EngineEvent]:
        """Translate the data of one event of the stream."""
        if self._done or data == _DONE:
            self._done = True
            return []
        try:
            chunk = decode_chunk(data)
            if bytes(chunk.error) in (b"", b"null"):
                return self._take_chunk(chunk, at_ns)
        except (msgspec.MsgspecError, ValueError) as error:
            raise self._far_side.failed("sent a malformed chunk", str(error)) from error
        raise self._far_side.of_event(bytes(chunk.error))

    def _take_chunk(self, chunk: Chunk, at_ns: int) -> list[EngineEvent]:
        if chunk.usage is not None or chunk.metrics is not None or chunk.timings is not None:
            self._last = chunk
        if not chunk.choices:
            return []
        self._fingerprint = self._fingerprint or chunk.system_fingerprint
        (choice, *_) = chunk.choices
        return self._take_choice(chunk, choice, at_ns)

    def _take_choice(self, chunk: Chunk, choice: Choice, at_ns: int) -> list[EngineEvent]:
        events: list[EngineEvent] = []
        text = choice.text or (choice.delta.content if choice.delta else None) or ""
        scores = None
        if choice.logprobs is not None and self._request.sampling.logprobs is not None:
            scores = token_logprobs(choice.logprobs)
        if not self._started:
            self._started = True
            prompt_ids = chunk.prompt_token_ids or choice.prompt_token_ids
            started = self._start(prompt_ids, scores)
            events.append(started)
            if self._request.echo:
                text = text.removeprefix(started.prompt_text or "")
                scores = None if scores is None else scores[len(started.prompt_logprobs or ()) :]
        delta = self._delta(choice, text, scores, at_ns)
        if delta is not None:
            events.append(delta)
        if choice.finish_reason is not None:
            self._reason = self._finish_reason(choice.finish_reason)
        elif self._limit_tokens is not None and self._at_least_tokens() >= self._limit_tokens:
            self._reason, self._done, self.cut = "length", True, True
        return events

    def _at_least_tokens(self) -> int:
        """Tokens so far; if the server does not report them, chunks, each of which has one."""
        return self._pieces if self._tokens is None else self._tokens

    def _start(
        self, prompt_ids: list[int] | None, scores: tuple[TokenLogprob, ...] | None
    ) -> Started:
        """Make the first event, with the prompt if it is to be echoed."""
        self._prompt_tokens = len(prompt_ids) if prompt_ids else None
        echo = self._request.echo
        of_prompt = None
        if echo and scores is not None and prompt_ids is not None:
            of_prompt = named(scores[: len(prompt_ids)], prompt_ids)
        return Started(
            queued_ns=self._queued_ns,
            scheduled_ns=None,
            prompt_tokens=self._prompt_tokens,
            prompt_token_ids=tuple(prompt_ids) if echo and prompt_ids else None,
            prompt_text=self._prompt_text,
            prompt_logprobs=of_prompt,
        )

    def _delta(
        self, choice: Choice, text: str, scores: tuple[TokenLogprob, ...] | None, at_ns: int
    ) -> Delta | None:
        """Make the event of new tokens, None if there are none."""
        ids = choice.token_ids
        if not (text or ids or scores):
            return None
        if ids is not None and scores is not None:
            scores = named(scores, ids)
        if ids is None or self._tokens is None:
            self._tokens = None
        else:
            self._tokens += len(ids)
        self._pieces += 1
        self._first_ns = self._first_ns or at_ns
        self._last_ns = at_ns
        return Delta(
            text=text, token_ids=None if ids is None else tuple(ids), at_ns=at_ns, logprobs=scores
        )

    def finished(
        self, build: ModelBuild, state_bytes: Callable[[int], StateBytes] | None
    ) -> Finished:
        """Make the last event. Raises EngineFailed if the stream ended before the answer."""
        if self._reason is None or not self._done:  # without its last line, usage may be lost
            raise self._far_side.failed("ended the stream before the answer was complete", "")
        usage, told_ms = self._last.usage, prefill_ms(self._last)
        scheduled_ns = None
        if told_ms is not None and self._first_ns is not None:
            scheduled_ns = max(self._queued_ns, self._first_ns - round(told_ms * 1e6))
        prompt_tokens = usage.prompt_tokens if usage else self._prompt_tokens
        completion_tokens = usage.completion_tokens if usage else self._tokens
        state: StateBytes | None = self._last.metrics.state if self._last.metrics else None
        if state is None and state_bytes and prompt_tokens and completion_tokens is not None:
            state = state_bytes(prompt_tokens + completion_tokens)
        return Finished(
            reason=self._reason,
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            scheduled_ns=scheduled_ns,
            cached_tokens=cached_tokens(self._last),
            first_ns=self._first_ns,
            last_ns=self._last_ns,
            state=state or StateBytes(),
            build=self._dated(build),
        )

    def _dated(self, build: ModelBuild) -> ModelBuild:
        """Add the server's fingerprint to the build if the version is unknown."""
        if build.engine_version != UNKNOWN_VERSION or self._fingerprint is None:
            return build
        return msgspec.structs.replace(build, engine_version=self._fingerprint)

    def _finish_reason(self, told: str) -> FinishReason:
        """Translate the server's reason; one that clients would not know becomes `stop`."""
        match told:
            case "stop" | "length" | "content_filter":
                return told
            case _ if told in _FAILURES:
                raise self._far_side.failed(f"broke off the answer ({told})", "")
        log.info("%s: finish reason %.64r read as stop", self._request.model, told)
        return "stop"
