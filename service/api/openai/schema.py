"""Wire types of the OpenAI API, requests and answers. Nothing below `api/` sees them."""

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from service.core.chat.sampling import (
    LONGEST_STOP,
    LogitBias,
    Logprobs,
    MinP,
    Penalty,
    RepetitionPenalty,
    Seed,
    StopStrings,
    Temperature,
    TokenCount,
    TokenId,
    TopP,
)
from service.core.events import FinishReason, StateBytes
from service.core.metrics import RequestMetrics
from service.core.record import MAX_NAME_CHARACTERS
from service.core.work import Energy, Work

MOST_MESSAGES = 256
MOST_PROMPTS = 256

ModelName = Annotated[str, Meta(max_length=MAX_NAME_CHARACTERS)]
_Tokens = Annotated[int, Meta(ge=1)]
TimeoutSeconds = Annotated[float, Meta(gt=0, le=86_400)]
CacheSalt = Annotated[str, Meta(min_length=1, max_length=MAX_NAME_CHARACTERS)]
_Stop = Annotated[str, Meta(max_length=LONGEST_STOP)]


class ContentPart(Struct, frozen=True, kw_only=True):
    """Part of a message; only text is supported."""

    type: str
    text: str | None = None


class WireMessage(Struct, frozen=True, kw_only=True):
    """Turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[ContentPart] | None = None
    name: str | None = None
    tool_calls: list[dict[str, object]] | None = None
    """Refused unless empty."""
    tool_call_id: str | None = None
    """Refused unless empty."""
    function_call: dict[str, object] | None = None
    """Refused unless empty."""


class StreamOptions(Struct, frozen=True, kw_only=True):
    """Extras of a stream."""

    include_usage: bool | None = None
    """Send a last chunk with usage and no choices."""
    continuous_usage_stats: bool | None = None
    """Send usage with every chunk."""


class SamplingFields(Struct, frozen=True, kw_only=True):
    """Sampling parameters; null is the same as an absent field."""

    temperature: Temperature | None = None
    """Default 1; 0 is greedy."""
    top_p: TopP | None = None
    top_k: Annotated[int, Meta(ge=-1, le=1_000_000)] | None = None
    """-1 and 0 mean no limit."""
    min_p: MinP | None = None
    """Applied after top-k and top-p, as in transformers; vLLM applies it before them."""
    repetition_penalty: RepetitionPenalty | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: LogitBias | None = None
    seed: Seed | None = None
    """The same seed gives the same text."""
    max_tokens: _Tokens | None = None
    max_completion_tokens: _Tokens | None = None
    """Overrides `max_tokens`."""
    min_tokens: TokenCount | None = None
    ignore_eos: bool | None = None
    stop: Annotated[str, Meta(max_length=LONGEST_STOP)] | StopStrings | None = None
    """An empty text is no stop string."""


class GenerationFields(SamplingFields, frozen=True, kw_only=True):
    """How an answer is sampled, and what it may reuse of earlier requests."""

    cache_salt: CacheSalt | None = None
    """Only requests with the same salt continue each other's prefixes, as with vLLM."""
    prefix_cache: bool | None = None
    """`false`: neither continue an earlier request's prefix nor leave one for later."""


class ChatCompletionBody(GenerationFields, frozen=True, kw_only=True):
    """Chat request."""

    messages: Annotated[list[WireMessage], Meta(min_length=1, max_length=MOST_MESSAGES)]
    model: ModelName | None = None
    """Model, `model:variant` or route; optional under `/m/{model}`."""
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    logprobs: bool | None = None
    top_logprobs: Logprobs | None = None
    return_token_ids: bool | None = None
    """Return the tokens beside their text, as vLLM does."""
    continue_final_message: bool | None = None
    """Extend the last assistant turn instead of starting a new one."""
    timeout_s: TimeoutSeconds | None = None
    """Time limit of the answer in seconds, or the header `x-request-timeout`."""
    user: Annotated[str, Meta(max_length=512)] | None = None
    """Keeps a client on one arm of a weighted route."""


class CompletionBody(GenerationFields, frozen=True, kw_only=True):
    """Completion request."""

    prompt: (
        str
        | Annotated[list[str | TokenId | list[TokenId]], Meta(min_length=1, max_length=1_000_000)]
        | None
    ) = None
    """Required: text, token ids, or a list of either (not streamed). Each prompt has a record."""
    model: ModelName | None = None
    """Model, `model:variant` or route; optional under `/m/{model}`."""
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    logprobs: Logprobs | None = None
    return_token_ids: bool | None = None
    """Return the tokens beside their text, as vLLM does; with `echo` also the prompt's."""
    echo: bool | None = None
    """Return the prompt before the answer, in text and logprobs."""
    timeout_s: TimeoutSeconds | None = None
    """Time limit of the answer in seconds, or the header `x-request-timeout`."""
    user: Annotated[str, Meta(max_length=512)] | None = None
    """Keeps a client on one arm of a weighted route."""


class CachedTokens(Struct, frozen=True):
    """Prompt tokens taken from a cache."""

    cached_tokens: int


class Usage(Struct, frozen=True, kw_only=True):
    """Token counts by the model's tokenizer."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: CachedTokens | None = None
    response_id: str | UnsetType = UNSET
    """Only of blind routes: the answer's id, which chat tools keep with the usage."""


class AnswerMetrics(RequestMetrics, frozen=True, kw_only=True):
    """Times in milliseconds, tokens, bytes; null is unknown. See docs/metrics.md."""

    request_id: str
    """Key of the record."""
    prompt_tokens: int | None
    completion_tokens: int | None
    cached_tokens: int | None
    state: StateBytes
    work: Work
    """Computed from the architecture, independent of the machine; null where unknown."""
    energy: Energy
    """By the device's counter; an `estimate` where `power.watts` stands in for it."""
    cold: bool
    """The request waited for its model to load."""
    verified: bool | None
    """The model passed its conformance probe; null before it was probed."""


class Timings(Struct, frozen=True, kw_only=True):
    """Times in the terms of llama.cpp's server, which chat tools display."""

    prompt_n: int | None
    prompt_ms: float | None
    prompt_per_token_ms: float | None
    prompt_per_second: float | None
    predicted_n: int | None
    predicted_ms: float | None
    predicted_per_token_ms: float | None
    predicted_per_second: float | None
    cache_n: int | UnsetType = UNSET


class TopLogprob(Struct, frozen=True, kw_only=True):
    """Candidate for a position."""

    token: str
    logprob: float
    bytes: list[int] | None


class ChatLogprob(Struct, frozen=True, kw_only=True):
    """Token of the answer."""

    token: str
    logprob: float
    bytes: list[int] | None
    top_logprobs: list[TopLogprob]


class ChatLogprobs(Struct, frozen=True, kw_only=True):
    """Log-probabilities (natural log) of the answer's tokens."""

    content: list[ChatLogprob]
    refusal: None = None


class AnswerMessage(Struct, frozen=True, kw_only=True):
    """Answer text."""

    content: str
    role: Literal["assistant"] = "assistant"
    refusal: None = None


class ChatChoice(Struct, frozen=True, kw_only=True):
    """The only choice."""

    message: AnswerMessage
    finish_reason: FinishReason
    logprobs: ChatLogprobs | None
    index: int = 0
    token_ids: list[int] | UnsetType = UNSET
    """Only with `return_token_ids`."""


class ChatCompletion(Struct, frozen=True, kw_only=True):
    """Complete chat answer."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage | None
    metrics: AnswerMetrics | UnsetType = UNSET
    """Left out where the arm is hidden, or several models answered."""
    timings: Timings | UnsetType = UNSET
    system_fingerprint: str | None = None


class ChatDelta(Struct, frozen=True, kw_only=True):
    """New text of a chunk."""

    role: Literal["assistant"] | UnsetType = UNSET
    content: str | UnsetType = UNSET


class ChatChunkChoice(Struct, frozen=True, kw_only=True):
    """The only choice."""

    delta: ChatDelta
    finish_reason: FinishReason | None = None
    logprobs: ChatLogprobs | None = None
    index: int = 0
    token_ids: list[int] | UnsetType = UNSET
    """Only with `return_token_ids`."""


class ChatCompletionChunk(Struct, frozen=True, kw_only=True):
    """Chunk of a streamed chat answer."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChatChunkChoice]
    usage: Usage | UnsetType | None = UNSET
    metrics: AnswerMetrics | UnsetType = UNSET
    timings: Timings | UnsetType = UNSET


class CompletionLogprobs(Struct, frozen=True, kw_only=True):
    """Log-probabilities (natural log), one list entry per token."""

    tokens: list[str]
    token_logprobs: list[float | None]
    """Null for the first token of a prompt."""
    top_logprobs: list[dict[str, float] | None]
    """Most likely tokens, always including the chosen one."""
    text_offset: list[int]


class CompletionChoice(Struct, frozen=True, kw_only=True):
    """Answer to one prompt."""

    text: str
    index: int
    finish_reason: FinishReason | None
    logprobs: CompletionLogprobs | None
    metrics: AnswerMetrics | UnsetType = UNSET
    """Only if the request has several prompts."""
    token_ids: list[int] | UnsetType = UNSET
    """Only with `return_token_ids`."""
    prompt_token_ids: list[int] | UnsetType = UNSET
    """Only with `return_token_ids` and `echo`; in a stream, in the prompt's chunk."""


class Completion(Struct, frozen=True, kw_only=True):
    """Complete answer, or chunk of a streamed one."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage | UnsetType | None = UNSET
    metrics: AnswerMetrics | UnsetType = UNSET
    timings: Timings | UnsetType = UNSET
    system_fingerprint: str | None = None
