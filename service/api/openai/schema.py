"""The wire: what clients of the OpenAI API send and read. Nothing below `api/` sees these."""

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from service.core.events import StateBytes
from service.core.metrics import RequestMetrics

MOST_MESSAGES = 256
MOST_PROMPTS = 256
MOST_STOPS = 16
MOST_LOGPROBS = 20
MOST_BIASES = 300

_Penalty = Annotated[float, Meta(ge=-2, le=2)]
_Tokens = Annotated[int, Meta(ge=1)]
_Bias = Annotated[float, Meta(ge=-100, le=100)]
_TokenId = Annotated[int, Meta(ge=0, le=2**53 - 1)]
_StopString = Annotated[str, Meta(min_length=1, max_length=256)]


class ContentPart(Struct, frozen=True, kw_only=True):
    """A part of a message; only text is supported."""

    type: str
    text: str | None = None


class ToolCall(Struct, frozen=True, kw_only=True):
    """A call of a tool; refused."""

    id: str | None = None


class WireMessage(Struct, frozen=True, kw_only=True):
    """One turn."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[ContentPart] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    """Refused unless empty."""


class StreamOptions(Struct, frozen=True, kw_only=True):
    """What a stream carries beside the text."""

    include_usage: bool | None = None
    """Send a last chunk with usage and no choices."""
    continuous_usage_stats: bool | None = None
    """Send usage with every chunk."""


class SamplingFields(Struct, frozen=True, kw_only=True):
    """How tokens are chosen; null is the same as leaving a field out."""

    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    """Default 1; 0 is greedy."""
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=-1, le=1_000_000)] | None = None
    """-1 and 0 mean no limit."""
    min_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Meta(gt=0, le=10)] | None = None
    presence_penalty: _Penalty | None = None
    frequency_penalty: _Penalty | None = None
    logit_bias: (
        Annotated[
            dict[_TokenId, Annotated[float, Meta(ge=-100, le=100)]], Meta(max_length=MOST_BIASES)
        ]
        | None
    ) = None
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    """Same seed, same text."""
    max_tokens: _Tokens | None = None
    max_completion_tokens: _Tokens | None = None
    """Wins over `max_tokens`."""
    min_tokens: Annotated[int, Meta(ge=0)] | None = None
    ignore_eos: bool | None = None
    stop: _StopString | Annotated[list[_StopString], Meta(max_length=MOST_STOPS)] | None = None
    return_token_ids: bool | None = None
    """Name the tokens beside their text, as vLLM does; of an echoed prompt too."""


class ChatCompletionBody(SamplingFields, frozen=True, kw_only=True):
    """A conversation to answer."""

    messages: Annotated[list[WireMessage], Meta(min_length=1, max_length=MOST_MESSAGES)]
    model: str | None = None
    """A model, `model:variant`, or a route; may be left out under `/m/{model}`."""
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=MOST_LOGPROBS)] | None = None
    continue_final_message: bool | None = None
    """Extend the last assistant turn instead of opening a new one."""
    user: Annotated[str, Meta(max_length=512)] | None = None
    """Keeps a client on one arm of a weighted route."""


class CompletionBody(SamplingFields, frozen=True, kw_only=True):
    """A text to go on with."""

    prompt: (
        str
        | Annotated[list[str | _TokenId | list[_TokenId]], Meta(min_length=1, max_length=1_000_000)]
    )
    """Text, token ids, or a list of either (not streamed); each prompt has a record of its own."""
    model: str | None = None
    """A model, `model:variant`, or a route; may be left out under `/m/{model}`."""
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    logprobs: Annotated[int, Meta(ge=0, le=MOST_LOGPROBS)] | None = None
    echo: bool | None = None
    """The answer begins with the prompt, and so do its logprobs."""
    user: Annotated[str, Meta(max_length=512)] | None = None
    """Keeps a client on one arm of a weighted route."""


class CachedTokens(Struct, frozen=True):
    """How much of the prompt was not computed anew."""

    cached_tokens: int


class Usage(Struct, frozen=True, kw_only=True):
    """Tokens as the model counts them."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: CachedTokens | None = None


class AnswerMetrics(RequestMetrics, frozen=True, kw_only=True):
    """Times in milliseconds, tokens, bytes; null is unknown. See docs/metrics.md."""

    request_id: str
    """The record's key."""
    prompt_tokens: int | None
    completion_tokens: int | None
    cached_tokens: int | None
    state: StateBytes
    cold: bool
    """The request waited for its model to load."""
    verified: bool | None
    """Whether the model passed its conformance probe."""


class Timings(Struct, frozen=True, kw_only=True):
    """The same in the words of llama.cpp's server; chat tools show these."""

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
    """A candidate."""

    token: str
    logprob: float
    bytes: list[int] | None


class ChatLogprob(Struct, frozen=True, kw_only=True):
    """A token of the answer."""

    token: str
    logprob: float
    bytes: list[int] | None
    top_logprobs: list[TopLogprob]


class ChatLogprobs(Struct, frozen=True, kw_only=True):
    """Log-probabilities (natural log) of the answer's tokens."""

    content: list[ChatLogprob]
    refusal: None = None


class AnswerMessage(Struct, frozen=True, kw_only=True):
    """The answer."""

    content: str
    role: Literal["assistant"] = "assistant"
    refusal: None = None


class ChatChoice(Struct, frozen=True, kw_only=True):
    """The only choice."""

    message: AnswerMessage
    finish_reason: Literal["stop", "length"]
    logprobs: ChatLogprobs | None
    index: int = 0
    token_ids: list[int] | UnsetType = UNSET
    """Only with `return_token_ids`."""


class ChatCompletion(Struct, frozen=True, kw_only=True):
    """A whole answer."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage | None
    metrics: AnswerMetrics
    timings: Timings
    system_fingerprint: str | None = None


class ChatDelta(Struct, frozen=True, kw_only=True):
    """New text."""

    role: Literal["assistant"] | UnsetType = UNSET
    content: str | UnsetType = UNSET


class ChatChunkChoice(Struct, frozen=True, kw_only=True):
    """The only choice."""

    delta: ChatDelta
    finish_reason: Literal["stop", "length"] | None = None
    logprobs: ChatLogprobs | None = None
    index: int = 0
    token_ids: list[int] | UnsetType = UNSET
    """Only with `return_token_ids`."""


class ChatCompletionChunk(Struct, frozen=True, kw_only=True):
    """A piece of a streamed answer."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChatChunkChoice]
    usage: Usage | UnsetType | None = UNSET
    metrics: AnswerMetrics | UnsetType = UNSET
    timings: Timings | UnsetType = UNSET


class CompletionLogprobs(Struct, frozen=True, kw_only=True):
    """Log-probabilities (natural log), a list entry a token."""

    tokens: list[str]
    token_logprobs: list[float | None]
    """Null for the first token of a prompt."""
    top_logprobs: list[dict[str, float] | None]
    """The most likely tokens, the chosen one always among them."""
    text_offset: list[int]


class CompletionChoice(Struct, frozen=True, kw_only=True):
    """The answer to one prompt."""

    text: str
    index: int
    finish_reason: Literal["stop", "length"] | None
    logprobs: CompletionLogprobs | None
    metrics: AnswerMetrics | UnsetType = UNSET
    """Only where one request has several prompts."""
    token_ids: list[int] | UnsetType = UNSET
    """Only with `return_token_ids`."""
    prompt_token_ids: list[int] | UnsetType = UNSET
    """Only with `return_token_ids` and `echo`; in a stream, with the piece that is the prompt."""


class Completion(Struct, frozen=True, kw_only=True):
    """A whole answer, or a piece of a streamed one."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage | UnsetType | None = UNSET
    metrics: AnswerMetrics | UnsetType = UNSET
    timings: Timings | UnsetType = UNSET
    system_fingerprint: str | None = None
