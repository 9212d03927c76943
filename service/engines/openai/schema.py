"""What servers of the OpenAI API stream, decoded strictly where it is read and no further."""

from collections.abc import Iterator

import msgspec
from msgspec import Struct

from service.core.events import StateBytes, TokenAlternative, TokenLogprob


class ChatToken(Struct, frozen=True):
    """A candidate of a chat answer's position."""

    token: str
    logprob: float


class ChatLogprob(ChatToken, frozen=True):
    """A token of a chat answer."""

    bytes: list[int] | None = None
    top_logprobs: list[ChatToken] = []


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
    """What was not computed anew."""

    cached_tokens: int | None = None


class Usage(Struct, frozen=True):
    """Tokens as the far side counts them."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: TokenDetails | None = None


class Metrics(Struct, frozen=True):
    """What vLLM (the first two) and Triptych tell of a request."""

    time_to_first_token_ms: float | None = None
    """Since the server received it."""
    queue_time_ms: float | None = None
    prefill_ms: float | None = None
    cached_tokens: int | None = None
    state: StateBytes | None = None


class Timings(Struct, frozen=True):
    """What llama.cpp tells of a request."""

    prompt_ms: float | None = None
    cache_n: int | None = None


class Chunk(Struct, frozen=True):
    """One event of a stream."""

    choices: list[Choice] = []
    usage: Usage | None = None
    metrics: Metrics | None = None
    timings: Timings | None = None
    prompt_token_ids: list[int] | None = None
    system_fingerprint: str | None = None
    error: msgspec.Raw = msgspec.Raw()


decode_chunk = msgspec.json.Decoder(Chunk).decode
"""Raises msgspec.MsgspecError for what is not one."""


def token_logprobs(found: Logprobs) -> tuple[TokenLogprob, ...]:
    """Log-probabilities of tokens whose ids are not told with them."""
    return tuple(_tokens(found))


def named(scores: tuple[TokenLogprob, ...], token_ids: list[int]) -> tuple[TokenLogprob, ...]:
    """The same with their ids, where these are as many; the likeliest may be the chosen one."""
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
                TokenAlternative(None, other.token, other.logprob) for other in token.top_logprobs
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
