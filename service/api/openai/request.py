"""From the wire to a valid request: nobody below sees the wire."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import UNSET, Struct

from service.api.openai.schema import (
    MOST_PROMPTS,
    AnswerMetrics,
    CachedTokens,
    ChatCompletionBody,
    CompletionBody,
    SamplingFields,
    Timings,
    Usage,
    WireMessage,
)
from service.core.chat import (
    ChatPrompt,
    ChatRequest,
    Message,
    Prompt,
    Role,
    Sampling,
    TextPrompt,
    TokenPrompt,
)
from service.core.errors import InvalidRequest, UnsupportedField
from service.core.metrics import RequestMetrics, derive
from service.core.record import RequestRecord
from service.core.routing import Route, WeightedRoute

CHAT_ID_HEADER = "x-openwebui-chat-id"
#: A caller's own id is kept as a label, shortened to this many characters.
LABEL_CHARACTERS = 128


class Caller(Struct, frozen=True, kw_only=True):
    """What the edge knows of a request beside its body."""

    request_id: str
    headers: Mapping[str, str]
    accepted_ns: int
    accepted_at_ns: int

    @classmethod
    def now(cls, request_id: str, headers: Mapping[str, str]) -> "Caller":
        """A caller whose request is accepted at this moment."""
        return cls(
            request_id=request_id,
            headers=headers,
            accepted_ns=time.monotonic_ns(),
            accepted_at_ns=time.time_ns(),
        )

    @property
    def label(self) -> str | None:
        """The caller's own id."""
        label = self.headers.get("x-request-id")
        return label[:LABEL_CHARACTERS] if label else None

    def sticky_key(self, user: str | None, route: Route | None) -> str | None:
        """What keeps this caller on an arm: the route's header, `user`, then the chat's id."""
        named = route.sticky_header if isinstance(route, WeightedRoute) else None
        return (
            (self.headers.get(named) if named else None)
            or user
            or self.headers.get(CHAT_ID_HEADER)
            or None
        )


class Limits(Struct, frozen=True, kw_only=True):
    """What the operator allows, and the routes that name a sticky header."""

    max_answer_tokens: int
    routes: Mapping[str, Route]


def chat_request(
    body: ChatCompletionBody, model: str | None, caller: Caller, limits: Limits
) -> ChatRequest:
    """One chat turn; *model* is what the path named, which wins over the body."""
    if body.top_logprobs and not body.logprobs:
        raise InvalidRequest("`top_logprobs` needs `logprobs: true`.", param="top_logprobs")
    name = model_name(model, body.model)
    return ChatRequest(
        request_id=caller.request_id,
        model=name,
        prompt=ChatPrompt(messages(body.messages), continue_final_message=_continued(body)),
        sampling=sampling(
            body, limits, logprobs=(body.top_logprobs or 0) if body.logprobs else None
        ),
        endpoint="chat",
        stream=bool(body.stream),
        sticky_key=caller.sticky_key(body.user, limits.routes.get(name)),
        client_request_id=caller.label,
        accepted_ns=caller.accepted_ns,
        accepted_at_ns=caller.accepted_at_ns,
    )


def completion_requests(
    body: CompletionBody, model: str | None, caller: Caller, limits: Limits
) -> tuple[ChatRequest, ...]:
    """A request a prompt; the first has the id of the HTTP request, the others a suffix."""
    prompts = prompts_of(body.prompt)
    if body.stream and len(prompts) > 1:
        raise UnsupportedField("a stream answers one prompt; `prompt` has several", param="prompt")
    name = model_name(model, body.model)
    sampled = sampling(body, limits, logprobs=body.logprobs)
    return tuple(
        ChatRequest(
            request_id=f"{caller.request_id}-{number}" if number else caller.request_id,
            model=name,
            prompt=prompt,
            sampling=sampled,
            endpoint="completion",
            stream=bool(body.stream),
            echo=bool(body.echo),
            sticky_key=caller.sticky_key(body.user, limits.routes.get(name)),
            client_request_id=caller.label,
            accepted_ns=caller.accepted_ns,
            accepted_at_ns=caller.accepted_at_ns,
        )
        for number, prompt in enumerate(prompts)
    )


def model_name(of_path: str | None, of_body: str | None) -> str:
    """The model that a request names."""
    if name := of_path or of_body:
        return name
    raise InvalidRequest("you must provide a `model`", param="model")


def _continued(body: ChatCompletionBody) -> bool:
    if not body.continue_final_message:
        return False
    if body.messages[-1].role != "assistant":
        raise InvalidRequest(
            "`continue_final_message` needs a last message of the assistant",
            param="continue_final_message",
        )
    return True


def messages(wire: Sequence[WireMessage]) -> tuple[Message, ...]:
    """Turns as text; parts of a message are joined by newlines. Raises UnsupportedField."""
    return tuple(_message(message, f"messages[{index}]") for index, message in enumerate(wire))


def _message(wire: WireMessage, where: str) -> Message:
    if wire.tool_calls:
        raise UnsupportedField("tool calls are not supported.", param=f"{where}.tool_calls")
    role: Role = "system" if wire.role == "developer" else wire.role
    return Message(role=role, content=_text(wire, where), name=wire.name)


def _text(wire: WireMessage, where: str) -> str:
    match wire.content:
        case str():
            return wire.content
        case None:
            if wire.role in ("assistant", "tool"):
                return ""
            raise InvalidRequest("`content` is missing", param=f"{where}.content")
        case _:
            texts = []
            for number, part in enumerate(wire.content):
                at = f"{where}.content[{number}]"
                if part.type != "text":
                    raise UnsupportedField("only text parts are supported", param=f"{at}.type")
                if part.text is None:
                    raise InvalidRequest("`text` is missing", param=f"{at}.text")
                texts.append(part.text)
            return "\n".join(texts)


def prompts_of(wire: str | list[str | int | list[int]]) -> tuple[Prompt, ...]:
    """Text, token ids, or a list of either, all of one kind."""
    if isinstance(wire, str):
        return (TextPrompt(wire),)
    if all(isinstance(item, int) for item in wire):
        return (TokenPrompt(tuple(item for item in wire if isinstance(item, int))),)
    if len(wire) > MOST_PROMPTS:
        raise InvalidRequest(f"at most {MOST_PROMPTS} prompts a request", param="prompt")
    if all(isinstance(item, str) for item in wire):
        return tuple(TextPrompt(item) for item in wire if isinstance(item, str))
    if all(isinstance(item, list) for item in wire):
        return tuple(TokenPrompt(tuple(item)) for item in wire if isinstance(item, list))
    raise InvalidRequest("`prompt` mixes texts and token ids", param="prompt")


def sampling(wire: SamplingFields, limits: Limits, *, logprobs: int | None) -> Sampling:
    """Valid sampling; a field that is left out or null has its default."""
    max_tokens = wire.max_completion_tokens or wire.max_tokens
    named = "max_completion_tokens" if wire.max_completion_tokens else "max_tokens"
    if max_tokens is not None and max_tokens > limits.max_answer_tokens:
        raise InvalidRequest(
            f"`{named}` is too large: {max_tokens}. An answer has at most "
            f"{limits.max_answer_tokens} tokens here.",
            param=named,
        )
    if (wire.min_tokens or 0) > (max_tokens or limits.max_answer_tokens):
        raise InvalidRequest("`min_tokens` is larger than the answer may be", param="min_tokens")
    given: dict[str, Any] = {
        "temperature": wire.temperature,
        "top_p": wire.top_p,
        "top_k": wire.top_k if wire.top_k and wire.top_k > 0 else None,
        "min_p": wire.min_p,
        "repetition_penalty": wire.repetition_penalty,
        "presence_penalty": wire.presence_penalty,
        "frequency_penalty": wire.frequency_penalty,
        "logit_bias": wire.logit_bias,
        "seed": wire.seed,
        "max_tokens": max_tokens,
        "min_tokens": wire.min_tokens,
        "stop": (wire.stop,) if isinstance(wire.stop, str) else tuple(wire.stop or ()),
        "ignore_eos": wire.ignore_eos,
        "logprobs": logprobs,
    }
    return Sampling(**{name: value for name, value in given.items() if value is not None})


def usage(record: RequestRecord) -> Usage | None:
    """Token counts of a finished record; None where another server did not tell them."""
    prompt_tokens, completion_tokens = record.prompt_tokens, record.completion_tokens
    if prompt_tokens is None or completion_tokens is None:
        return None
    cached = record.cached_tokens
    return Usage(
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        total_tokens=prompt_tokens + completion_tokens,
        prompt_tokens_details=None if cached is None else CachedTokens(cached),
    )


def metrics(record: RequestRecord) -> AnswerMetrics:
    """What the answer cost."""
    times = derive(record)
    return AnswerMetrics(
        **{name: getattr(times, name) for name in RequestMetrics.__struct_fields__},
        request_id=record.request_id,
        prompt_tokens=record.prompt_tokens,
        completion_tokens=record.completion_tokens,
        cached_tokens=record.cached_tokens,
        state=record.state,
        cold=record.cold,
        verified=record.verified,
    )


def timings(record: RequestRecord) -> Timings:
    """The same as llama.cpp's server says it; rates leave the first token to the prefill."""
    times = derive(record)
    cached = record.cached_tokens
    computed = None if record.prompt_tokens is None else record.prompt_tokens - (cached or 0)
    prefill_ms = times.prefill_ms
    return Timings(
        prompt_n=computed,
        prompt_ms=prefill_ms,
        prompt_per_token_ms=prefill_ms / computed if prefill_ms and computed else None,
        prompt_per_second=computed * 1e3 / prefill_ms if prefill_ms and computed else None,
        predicted_n=record.completion_tokens,
        predicted_ms=times.decode_ms,
        predicted_per_token_ms=times.tpot_ms,
        predicted_per_second=times.tokens_per_s,
        cache_n=UNSET if cached is None else cached,
    )
