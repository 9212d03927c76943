"""Chunks that servers of the OpenAI API stream; only what is read here is decoded."""

from collections.abc import Iterator
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from service.core.events import StateBytes, TokenAlternative, TokenLogprob

Count = Annotated[int, Meta(ge=0, le=2**53 - 1)]
"""Tokens or bytes; records and metrics take neither negative ones nor more than 64 bits."""
Milliseconds = Annotated[float, Meta(ge=0)]


class ChatToken(Struct, frozen=True):
    """Candidate for a position of a chat answer."""

    token: str
    logprob: float


class ChatLogprob(ChatToken, frozen=True):
    """Token of a chat answer."""

    bytes: list[int] | None = None
    top_logprobs: list[ChatToken] | None = None


class Logprobs(Struct, frozen=True):
    """Log-probabilities in the shape of chats (`content`) or of completions."""

    content: list[ChatLogprob] | None = None
    tokens: list[str] = []
    token_logprobs: list[float | None] = []
    top_logprobs: list[dict[str, float] | None] | None = None


class ChoiceDelta(Struct, frozen=True):
    """New text of a chat."""

    content: str | None = None


class Choice(Struct, frozen=True):
    """The only choice."""

    delta: ChoiceDelta | None = None
    text: str | None = None
    finish_reason: str | None = None
    logprobs: Logprobs | None = None
    token_ids: list[int] | None = None
    prompt_token_ids: list[int] | None = None


class TokenDetails(Struct, frozen=True):
    """Prompt tokens that were not computed again."""

    cached_tokens: Count | None = None


class Usage(Struct, frozen=True):
    """Token counts of the server."""

    prompt_tokens: Count | None = None
    completion_tokens: Count | None = None
    prompt_tokens_details: TokenDetails | None = None


class State(StateBytes, frozen=True, kw_only=True):
    """State bytes that another Triptych reports."""

    attention_kv_bytes: Count | None = None
    window_kv_bytes: Count | None = None
    ssm_state_bytes: Count | None = None
    conv_state_bytes: Count | None = None
    snapshot_bytes: Count | None = None
    reserved_bytes: Count | None = None


class Metrics(Struct, frozen=True):
    """Measurements of a request by vLLM (the first two) and Triptych."""

    time_to_first_token_ms: Milliseconds | None = None
    """From the arrival of the request at the server."""
    queue_time_ms: Milliseconds | None = None
    prefill_ms: Milliseconds | None = None
    cached_tokens: Count | None = None
    state: State | None = None


class Timings(Struct, frozen=True):
    """Measurements of a request by llama.cpp."""

    prompt_ms: Milliseconds | None = None
    cache_n: Count | None = None


class Chunk(Struct, frozen=True):
    """Data of one event of a stream."""

    choices: list[Choice] = []
    usage: Usage | None = None
    metrics: Metrics | None = None
    timings: Timings | None = None
    prompt_token_ids: list[int] | None = None
    system_fingerprint: str | None = None
    error: msgspec.Raw = msgspec.Raw()


decode_chunk = msgspec.json.Decoder(Chunk).decode
"""Decode a chunk. Raises msgspec.MsgspecError for anything else."""


def token_logprobs(found: Logprobs) -> tuple[TokenLogprob, ...] | None:
    """Read log-probabilities of tokens, whose ids are not known yet; None if there are none."""
    return tuple(_tokens(found)) or None


def named(scores: tuple[TokenLogprob, ...], token_ids: list[int]) -> tuple[TokenLogprob, ...]:
    """Add token ids if there are as many; alternatives equal to the chosen token get its id."""
    if len(scores) != len(token_ids):
        return scores
    return tuple(
        msgspec.structs.replace(
            token,
            token_id=token_id,
            top=tuple(
                TokenAlternative(token_id, other.text, other.logprob)
                if (other.text, other.logprob) == (token.text, token.logprob)
                else other
                for other in token.top
            ),
        )
        for token, token_id in zip(scores, token_ids, strict=True)
    )


def _tokens(found: Logprobs) -> Iterator[TokenLogprob]:
    if found.content is not None:
        for token in found.content:
            top = tuple(
                TokenAlternative(None, other.token, other.logprob)
                for other in token.top_logprobs or ()
            )
            yield TokenLogprob(token_id=None, text=token.token, logprob=token.logprob, top=top)
        return
    tops = found.top_logprobs or [None] * len(found.tokens)
    for text, logprob, others in zip(found.tokens, found.token_logprobs, tops, strict=True):
        ranked = sorted((others or {}).items(), key=lambda pair: -pair[1])
        yield TokenLogprob(
            token_id=None,
            text=text,
            logprob=logprob,
            top=tuple(TokenAlternative(None, other, value) for other, value in ranked),
        )
