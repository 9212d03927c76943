"""Streamed answers: chunks in order, usage and metrics last."""

import time
from collections.abc import AsyncGenerator, Callable
from typing import Literal

from msgspec import UNSET, UnsetType, structs

from service.api.openai.logprobs import chat_logprobs, completion_logprobs
from service.api.openai.schema import (
    AnswerMetrics,
    ChatChunkChoice,
    ChatCompletionChunk,
    ChatDelta,
    Completion,
    CompletionChoice,
    StreamOptions,
    Timings,
    Usage,
)
from service.api.openai.usage import metrics, timings, usage
from service.api.openai.whole import answer_id, blind_usage, served_headers
from service.api.sse import DONE, data
from service.core.chat import ChatRequest
from service.core.events import Delta, EngineEvent, Finished, FinishReason, Started, TokenLogprob
from service.serving.requests.answer import Answer


class ChatChunks:
    """Chunks of a chat answer; the first has the role and the first text."""

    def __init__(self, request: ChatRequest, model: str) -> None:
        self._base = ChatCompletionChunk(
            id=answer_id(request, "chatcmpl"), created=int(time.time()), model=model, choices=[]
        )
        self._begun = False

    def piece(
        self, text: str, logprobs: tuple[TokenLogprob, ...] | None, reason: FinishReason | None
    ) -> ChatCompletionChunk:
        """Make a chunk of new text."""
        role: Literal["assistant"] | UnsetType = UNSET if self._begun else "assistant"
        content = UNSET if self._begun and not text else text
        self._begun = True
        choice = ChatChunkChoice(
            delta=ChatDelta(role=role, content=content),
            finish_reason=reason,
            logprobs=None if logprobs is None else chat_logprobs(logprobs),
        )
        return structs.replace(self._base, choices=[choice])

    def closing(self) -> ChatCompletionChunk:
        """Make a chunk without a choice, for the usage."""
        return self._base


class CompletionChunks:
    """Chunks of a completion."""

    def __init__(self, request: ChatRequest, model: str) -> None:
        self._base = Completion(
            id=answer_id(request, "cmpl"), created=int(time.time()), model=model, choices=[]
        )
        self._offset = 0

    def piece(
        self, text: str, logprobs: tuple[TokenLogprob, ...] | None, reason: FinishReason | None
    ) -> Completion:
        """Make a chunk of new text."""
        shown = None if logprobs is None else completion_logprobs(logprobs, self._offset)
        self._offset += sum(len(token.text) for token in logprobs or ())
        choice = CompletionChoice(
            text=text,
            index=0,
            finish_reason=reason,
            logprobs=shown,
        )
        return structs.replace(self._base, choices=[choice])

    def closing(self) -> Completion:
        """Make a chunk without a choice, for the usage."""
        return self._base


class AnswerStream:
    """Frames of a streamed answer, which is opened when the first frame is requested."""

    def __init__(
        self,
        request: ChatRequest,
        open_answer: Callable[[ChatRequest], Answer],
        chunks: type[ChatChunks] | type[CompletionChunks],
        options: StreamOptions,
        *,
        token_ids: bool = False,
    ) -> None:
        self._request = request
        self._open = open_answer
        self._chunks = chunks
        self._include_usage = bool(options.include_usage)
        self._continuous = self._include_usage and bool(options.continuous_usage_stats)
        self._answer: Answer | None = None
        self._text = ""
        self._logprobs: list[TokenLogprob] | None = (
            None if request.sampling.logprobs is None else []
        )
        self._token_ids: list[int] | None = [] if token_ids else None
        self._prompt_token_ids: tuple[int, ...] | None = None
        self._prompt_tokens: int | None = 0

    def headers(self) -> dict[str, str]:
        """Name the model that answers, once that is decided."""
        if self._answer is None:
            return {}
        return served_headers(self._answer)

    async def frames(self) -> AsyncGenerator[bytes]:
        """Yield chunks as events, the last with metrics and timings, then `[DONE]`.

        The first chunk has text, since clients take it for the first token. The record is
        submitted after `[DONE]` was sent.
        """
        async with self._open(self._request) as self._answer:
            chunks: ChatChunks | CompletionChunks | None = None
            async for event in self._answer:
                if chunks is None:
                    chunks = self._chunks(self._request, self._answer.shown_model or "")
                self._take(event)
                if isinstance(event, Finished):
                    for chunk in self._last(chunks, event.reason, self._answer):
                        yield data(chunk)
                elif self._text:
                    yield data(self._piece(chunks, None))
            yield DONE

    def _take(self, event: EngineEvent) -> None:
        """Buffer an event; tokens without text of their own wait for the next text."""
        match event:
            case Started():
                self._prompt_tokens = event.prompt_tokens
                text, logprobs = event.prompt_text or "", event.prompt_logprobs
                self._prompt_token_ids = event.prompt_token_ids
            case Delta():
                text, logprobs = event.text, event.logprobs
                if self._token_ids is not None:
                    self._token_ids.extend(event.token_ids or ())
            case Finished():
                text, logprobs = event.text, None
        self._text += text
        if self._logprobs is not None:
            self._logprobs.extend(logprobs or ())

    def _piece(
        self, chunks: "ChatChunks | CompletionChunks", reason: FinishReason | None
    ) -> ChatCompletionChunk | Completion:
        logprobs = None if self._logprobs is None else tuple(self._logprobs)
        chunk = chunks.piece(self._text, logprobs or None, reason)
        self._text = ""
        if self._logprobs:
            self._logprobs.clear()
        if self._token_ids is not None:
            chunk = self._with_tokens(chunk, self._token_ids)
        if self._continuous:
            return structs.replace(chunk, usage=self._usage_so_far())
        return chunk

    def _with_tokens(
        self, chunk: ChatCompletionChunk | Completion, token_ids: list[int]
    ) -> ChatCompletionChunk | Completion:
        named: dict[str, list[int]] = {"token_ids": list(token_ids)}
        if self._prompt_token_ids is not None:
            named["prompt_token_ids"] = list(self._prompt_token_ids)
            self._prompt_token_ids = None
        token_ids.clear()
        return structs.replace(chunk, choices=[structs.replace(chunk.choices[0], **named)])

    def _usage_so_far(self) -> Usage | None:
        completion_tokens = None if self._answer is None else self._answer.completion_tokens
        if self._prompt_tokens is None or completion_tokens is None:
            return None
        return Usage(
            prompt_tokens=self._prompt_tokens,
            completion_tokens=completion_tokens,
            total_tokens=self._prompt_tokens + completion_tokens,
        )

    def _last(
        self, chunks: "ChatChunks | CompletionChunks", reason: FinishReason, answer: Answer
    ) -> list[ChatCompletionChunk | Completion]:
        """Make the chunk with the finish reason, and the usage chunk if requested.

        Metrics and timings go with the very last, as llama.cpp does: Open WebUI adds up token
        counts over chunks, so no two chunks may have any.
        """
        end = self._piece(chunks, reason)
        record = answer.record
        times = answer.metrics
        hidden = answer.choice.hidden
        extras: dict[str, AnswerMetrics | Timings] = (
            {} if hidden else {"metrics": metrics(record, times), "timings": timings(record, times)}
        )
        if not self._include_usage:
            return [structs.replace(end, **extras)]
        counted = blind_usage(self._request, record) if hidden else usage(record)
        return [end, structs.replace(chunks.closing(), usage=counted, **extras)]
