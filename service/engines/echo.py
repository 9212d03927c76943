"""EchoEngine: an engine without a model that repeats the last message.

Its pace and its faults are configurable. It keeps the contract of every engine, so it stands in for
one in tests and in measurements of everything around an engine.
"""

import asyncio
import re
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from itertools import accumulate, chain, cycle, repeat
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from model_registry.spec import ResolvedModel
from service.core.chat import ChatPrompt, ChatRequest, Prompt, TextPrompt, TokenPrompt
from service.core.errors import EngineFailed, InvalidRequest, ModelNotReady
from service.core.events import (
    Delta,
    EngineEvent,
    Finished,
    FinishReason,
    ModelBuild,
    ModelMemory,
    Started,
    StateBytes,
    TokenAlternative,
    TokenLogprob,
)
from service.core.ports import MemoryEstimate, TextTokens, TokenizerInfo
from service.engines.limits import answer_limit, check_prompt, check_sampling, check_tokens
from service.engines.text.answer_text import AnswerText

PIECE_BYTES: Final = 5
"""Bytes of a word that one token spells at most."""

EOS: Final = 0
VOCABULARY_TOKENS: Final = 2 << (8 * PIECE_BYTES)

_WORD: Final = re.compile(rb"\s*\S+|\s+")


class EchoBehaviour(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Pace and faults: the `[architecture]` table of an echo model's catalogue file."""

    ttft_ms: Annotated[float, Meta(ge=0)] = 0.0
    """Pause before the first token."""
    itl_ms: Annotated[float, Meta(ge=0)] = 0.0
    """Pause between tokens."""
    load_ms: Annotated[float, Meta(ge=0)] = 0.0
    """Duration of `start`."""
    load_error: str | None = None
    """Message that `start` fails with."""
    fail_after_tokens: Annotated[int, Meta(ge=0)] | None = None
    """Tokens after which every answer fails."""
    slots: Annotated[int, Meta(ge=1)] = 1024
    """Requests that run at once; others wait."""
    weights_bytes: Annotated[int, Meta(ge=0)] = 0
    """Bytes that it claims to hold."""
    token_bytes: Annotated[int, Meta(ge=0)] = 0
    """Bytes of state that it claims for each token of a running request."""


class EchoEngine:
    """Answers with the words of the last message, then the end of sequence.

    `ignore_eos` and `min_tokens` make it start over. Every token is certain: every
    log-probability is 0, and there are no alternatives.
    """

    def __init__(
        self,
        model: ResolvedModel,
        behaviour: EchoBehaviour | None = None,
        *,
        max_answer_tokens: int | None = None,
    ) -> None:
        """Use *behaviour*, or else the model's own. Raises ModelNotReady if that is invalid."""
        self.model = model
        self.behaviour = behaviour or _behaviour(model)
        self._max_answer_tokens = max_answer_tokens
        self._free_slots = asyncio.Semaphore(self.behaviour.slots)
        self._running = 0
        self._build = ModelBuild(
            weights_sha256=None,
            dtype=model.dtype,
            quantization=None,
            engine="echo",
            engine_version="1",
            device="cpu",
            kernel_path="none",
            state_source="measured",
        )

    def __repr__(self) -> str:
        """Name the model and its load."""
        return f"<EchoEngine {self.model.id}: {self._running} running>"

    async def start(self) -> None:
        """Wait for `load_ms`. Raises ModelNotReady if `load_error` is set."""
        await asyncio.sleep(self.behaviour.load_ms / 1e3)
        if self.behaviour.load_error is not None:
            raise ModelNotReady(self.behaviour.load_error)

    async def generate(self, request: ChatRequest) -> AsyncGenerator[EngineEvent]:
        """Yield Started, one Delta per token and Finished. Raises InvalidRequest."""
        queued_ns = time.monotonic_ns()
        answer = _Answer(
            request,
            context_tokens=self.model.spec.context_tokens,
            max_answer_tokens=self._max_answer_tokens,
        )
        async with self._free_slots:
            self._running += 1
            try:
                async for event in self._answer(answer, queued_ns):
                    yield event
            finally:
                self._running -= 1

    async def _answer(self, answer: "_Answer", queued_ns: int) -> AsyncGenerator[EngineEvent]:
        yield answer.started(queued_ns=queued_ns, scheduled_ns=time.monotonic_ns())
        pause_ms, others = self.behaviour.ttft_ms, 0
        while answer.finish_reason is None:
            await asyncio.sleep(pause_ms / 1e3)  # without a pause the others still get their turn
            if answer.sampled_tokens == self.behaviour.fail_after_tokens:
                raise EngineFailed("The echo engine failed, as configured.")
            others = max(others, self._running - 1)
            yield answer.next(time.monotonic_ns())
            pause_ms = self.behaviour.itl_ms
        yield answer.finished(self._build, co_scheduled=others)

    def memory_estimate(self) -> MemoryEstimate:
        """`weights_bytes`."""
        return MemoryEstimate(held_bytes=self.behaviour.weights_bytes, setup="echo")

    def state_bytes(self, request: ChatRequest, *, prompt_tokens: int | None = None) -> int:
        """`token_bytes` for each token of the prompt and of the longest answer."""
        if not self.behaviour.token_bytes:
            return 0
        known = len(_encode(request.prompt)) if prompt_tokens is None else prompt_tokens
        left = max(0, self.model.spec.context_tokens - known)
        wanted = request.sampling.max_tokens
        answer = self._max_answer_tokens if wanted is None else wanted
        return self.behaviour.token_bytes * (known + min(left, left if answer is None else answer))

    def memory(self) -> ModelMemory:
        """`weights_bytes`, and the slots."""
        return ModelMemory(
            weights_bytes=self.behaviour.weights_bytes,
            slots_bytes=0,
            slots_total=self.behaviour.slots,
            slots_used=self._running,
            snapshots_bytes=0,
            workspace_bytes=0,
        )

    async def tokenize(self, prompt: Prompt, *, add_special_tokens: bool) -> tuple[int, ...]:  # noqa: ARG002  it has none
        """Token ids of a prompt."""
        return tuple(_encode(prompt))

    async def detokenize(self, token_ids: Sequence[int]) -> str:
        """Text of token ids."""
        check_tokens(token_ids, vocabulary_tokens=VOCABULARY_TOKENS, param="tokens")
        return b"".join(map(piece, token_ids)).decode("utf-8", "replace")

    async def tokenizer_info(self) -> TokenizerInfo:
        """All None: it has neither special tokens nor a template."""
        return TokenizerInfo(bos_token=None, eos_token=None, pad_token=None, chat_template=None)

    async def split(self, text: str) -> TextTokens:
        """Tokens of a text, after the end of sequence."""
        ids = encode(text)
        ends = tuple(accumulate(len(piece(id_)) for id_ in ids))
        return TextTokens(
            token_ids=tuple(ids),
            begins_bytes=(0, *ends[:-1]) if ids else (),
            start_id=EOS,
            start_token="",
            context_tokens=self.model.spec.context_tokens,
        )

    async def aclose(self) -> None:
        """Nothing to free."""


class _Answer:
    """An answer, token by token."""

    def __init__(
        self, request: ChatRequest, *, context_tokens: int, max_answer_tokens: int | None
    ) -> None:
        self._request = request
        self._sampling = request.sampling
        check_sampling(self._sampling, vocabulary_tokens=VOCABULARY_TOKENS)
        self._prompt_ids = _encode(request.prompt)
        check_prompt(self._prompt_ids, vocabulary_tokens=VOCABULARY_TOKENS)
        self._limit_tokens = answer_limit(
            context_tokens=context_tokens,
            prompt_tokens=len(self._prompt_ids),
            max_tokens=self._sampling.max_tokens,
            default_tokens=max_answer_tokens,
        )
        self._text = AnswerText(self._sampling.stop)
        self._tokens = self._stream()
        self.sampled_tokens = 0
        self.finish_reason: FinishReason | None = None if self._limit_tokens else "length"
        self._first_ns: int | None = None
        self._last_ns: int | None = None

    def _stream(self) -> Iterator[int]:
        ids = encode(_last_text(self._request.prompt)) or [EOS]
        if self._sampling.ignore_eos:
            return cycle(ids)
        at_least = self._sampling.min_tokens
        length = max(len(ids), at_least)
        return chain((ids[i % len(ids)] for i in range(length)), repeat(EOS))

    def started(self, *, queued_ns: int, scheduled_ns: int) -> Started:
        echo, scored = self._request.echo, self._sampling.logprobs is not None
        ids = self._prompt_ids
        first = TokenLogprob(token_id=ids[0], text=_text(ids[0]), logprob=None)
        return Started(
            queued_ns=queued_ns,
            scheduled_ns=scheduled_ns,
            prompt_tokens=len(ids),
            prompt_token_ids=tuple(ids) if echo else None,
            prompt_text=b"".join(map(piece, ids)).decode("utf-8", "replace") if echo else None,
            prompt_logprobs=(first, *map(self._logprob, ids[1:])) if echo and scored else None,
        )

    def next(self, at_ns: int) -> Delta:
        token_id = next(self._tokens)
        self.sampled_tokens += 1
        self._first_ns = self._first_ns or at_ns
        self._last_ns = at_ns
        text = self._text.push(
            piece(token_id), watch=self.sampled_tokens >= self._sampling.min_tokens
        )
        if self._text.stopped or (token_id == EOS and not self._sampling.ignore_eos):
            self.finish_reason = "stop"
        elif self.sampled_tokens >= self._limit_tokens:
            self.finish_reason = "length"
        scored = self._sampling.logprobs is not None
        return Delta(
            text=text,
            token_ids=(token_id,),
            at_ns=at_ns,
            logprobs=(self._logprob(token_id),) if scored else None,
        )

    def finished(self, build: ModelBuild, *, co_scheduled: int) -> Finished:
        assert self.finish_reason is not None
        return Finished(
            reason=self.finish_reason,
            text=self._text.finish(),
            prompt_tokens=len(self._prompt_ids),
            completion_tokens=self.sampled_tokens,
            first_ns=self._first_ns,
            last_ns=self._last_ns,
            state=StateBytes(
                attention_kv_bytes=0, window_kv_bytes=0, ssm_state_bytes=0, conv_state_bytes=0
            ),
            co_scheduled=co_scheduled,
            build=build,
        )

    def _logprob(self, token_id: int) -> TokenLogprob:
        text = _text(token_id)
        top = (TokenAlternative(token_id, text, 0.0),) if self._sampling.logprobs else ()
        return TokenLogprob(token_id=token_id, text=text, logprob=0.0, top=top)


def encode(text: str) -> list[int]:
    """Token ids: words with the space before them, cut into PIECE_BYTES; an id spells its bytes."""
    return [
        int.from_bytes(b"\x01" + word[start : start + PIECE_BYTES])
        for word in _WORD.findall(text.encode())
        for start in range(0, len(word), PIECE_BYTES)
    ]


def piece(token_id: int) -> bytes:
    """Bytes that a token spells; empty for the end of sequence."""
    spelled = token_id.to_bytes(PIECE_BYTES + 1).lstrip(b"\x00")
    return spelled[1:] if spelled[:1] == b"\x01" else b""


def _text(token_id: int) -> str:
    return piece(token_id).decode("utf-8", "replace")


def _encode(prompt: Prompt) -> list[int]:
    if isinstance(prompt, TokenPrompt):
        return list(prompt.token_ids)
    if isinstance(prompt, TextPrompt):
        return encode(prompt.text)
    if not prompt.messages:
        raise InvalidRequest("The conversation is empty.", param="messages")
    return encode("".join(f"{each.role}: {each.content}\n" for each in prompt.messages))


def _last_text(prompt: Prompt) -> str:
    match prompt:
        case ChatPrompt(messages=messages):
            users = [message.content for message in messages if message.role == "user"]
            return (users or [messages[-1].content])[-1]
        case TextPrompt(text=text):
            return text
        case TokenPrompt(token_ids=token_ids):
            return b"".join(map(piece, token_ids)).decode("utf-8", "replace")


def _behaviour(model: ResolvedModel) -> EchoBehaviour:
    try:
        return msgspec.convert(model.spec.architecture, EchoBehaviour)
    except msgspec.ValidationError as error:
        raise ModelNotReady(f"{model.id}: [architecture] of an echo model: {error}") from error
