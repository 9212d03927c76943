"""Bodies of the OpenAI API as valid requests; nothing below sees the wire."""

import time
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct

from service.api.openai.prompt import messages, prompts_of
from service.api.openai.schema import (
    ChatCompletionBody,
    CompletionBody,
    SamplingFields,
    TimeoutSeconds,
)
from service.core.chat import (
    ChatPrompt,
    ChatRequest,
)
from service.core.chat.sampling import Sampling
from service.core.errors import InvalidRequest, UnsupportedField
from service.core.routes.route import BlindRoute, Route, sticky_header
from service.settings import Settings

CHAT_ID_HEADER = "x-openwebui-chat-id"
TIMEOUT_HEADER = "x-request-timeout"
#: A caller's own id is kept as a label, shortened to this many characters.
LABEL_CHARACTERS = 128


class Caller(Struct, frozen=True, kw_only=True):
    """Caller of a request: its ids, headers and time of arrival."""

    request_id: str
    headers: Mapping[str, str]
    accepted_ns: int
    accepted_at_ns: int

    @classmethod
    def now(cls, request_id: str, headers: Mapping[str, str]) -> "Caller":
        """Describe a caller whose request is accepted at this moment."""
        return cls(
            request_id=request_id,
            headers=headers,
            accepted_ns=time.monotonic_ns(),
            accepted_at_ns=time.time_ns(),
        )

    @property
    def label(self) -> str | None:
        """Caller's own id, shortened."""
        label = self.headers.get("x-request-id")
        return label[:LABEL_CHARACTERS] if label else None

    def sticky_key(self, user: str | None, route: Route | None) -> str | None:
        """Key that keeps this caller on an arm: the route's header, `user`, then the chat's id."""
        named = sticky_header(route)
        return (
            (self.headers.get(named) if named else None)
            or user
            or self.headers.get(CHAT_ID_HEADER)
            or None
        )

    def deadline_ns(self, timeout_s: float | None, limits: "Limits") -> int | None:
        """When the answer has to be complete: by the body, the header, and the operator's limit."""
        asked_s = self._timeout_s() if timeout_s is None else timeout_s
        most_s = limits.request_timeout_s or asked_s
        if most_s is None:
            return None
        limit_s = most_s if asked_s is None else min(asked_s, most_s)
        return self.accepted_ns + round(limit_s * 1e9)

    def _timeout_s(self) -> float | None:
        header = self.headers.get(TIMEOUT_HEADER)
        if header is None:
            return None
        try:
            return msgspec.convert(header, TimeoutSeconds, strict=False)
        except msgspec.ValidationError:
            raise InvalidRequest(
                f"the header `{TIMEOUT_HEADER}` is not a number of seconds from 0 to 86400",
                param=TIMEOUT_HEADER,
            ) from None


class Limits(Struct, frozen=True, kw_only=True):
    """Operator's limits, and the routes, which may name a sticky header."""

    max_answer_tokens: int
    routes: Mapping[str, Route]
    request_timeout_s: float = 0.0
    """Default and maximum of a request's time limit in seconds; 0: none."""


def limits_of(settings: Settings, routes: Mapping[str, Route]) -> Limits:
    """The limits that the settings have, and the routes of this moment."""
    return Limits(
        max_answer_tokens=settings.max_answer_tokens,
        routes=routes,
        request_timeout_s=settings.request_timeout_s,
    )


def chat_request(
    body: ChatCompletionBody, model: str | None, caller: Caller, limits: Limits
) -> ChatRequest:
    """Make a chat request. *model* is the path's, which overrides the body's."""
    _check_stream_options(body)
    if body.top_logprobs and not body.logprobs:
        raise InvalidRequest("`top_logprobs` needs `logprobs: true`.", param="top_logprobs")
    name = model_name(model, body.model)
    _check_blind(body, name, limits)
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
        deadline_ns=caller.deadline_ns(body.timeout_s, limits),
        cache_salt=body.cache_salt,
        prefix_cache=body.prefix_cache is not False,
        client_request_id=caller.label,
        accepted_ns=caller.accepted_ns,
        accepted_at_ns=caller.accepted_at_ns,
    )


def completion_requests(
    body: CompletionBody, model: str | None, caller: Caller, limits: Limits
) -> tuple[ChatRequest, ...]:
    """Make one request per prompt; the first has the id of the HTTP request, others a suffix."""
    _check_stream_options(body)
    if body.prompt is None:
        raise InvalidRequest("`prompt` is missing.", param="prompt")
    prompts = prompts_of(body.prompt)
    if body.stream and len(prompts) > 1:
        raise UnsupportedField("A stream answers one prompt; `prompt` has several.", param="prompt")
    name = model_name(model, body.model)
    _check_blind(body, name, limits)
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
            deadline_ns=caller.deadline_ns(body.timeout_s, limits),
            cache_salt=body.cache_salt,
            prefix_cache=body.prefix_cache is not False,
            client_request_id=caller.label,
            accepted_ns=caller.accepted_ns,
            accepted_at_ns=caller.accepted_at_ns,
        )
        for number, prompt in enumerate(prompts)
    )


def model_name(of_path: str | None, of_body: str | None) -> str:
    """Return the model that a request names. Raises InvalidRequest if there is none."""
    if name := of_path or of_body:
        return name
    raise InvalidRequest("`model` is missing.", param="model")


def _check_blind(body: ChatCompletionBody | CompletionBody, name: str, limits: Limits) -> None:
    """Refuse what shows a model's own tokens where the model is hidden."""
    if not isinstance(limits.routes.get(name), BlindRoute):
        return
    for field in ("logprobs", "return_token_ids", "echo"):
        asked = getattr(body, field, None)
        if asked is not None and asked is not False:  # 0 log-probabilities are some
            raise UnsupportedField(
                f"`{field}` would tell which model answers, and `{name}` is a blind route.",
                param=field,
            )


def _check_stream_options(body: ChatCompletionBody | CompletionBody) -> None:
    if body.stream_options is not None and not body.stream:
        raise InvalidRequest(
            "`stream_options` is only allowed with `stream: true`.", param="stream_options"
        )


def _continued(body: ChatCompletionBody) -> bool:
    if not body.continue_final_message:
        return False
    if body.messages[-1].role != "assistant":
        raise InvalidRequest(
            "`continue_final_message` needs a last message of role `assistant`.",
            param="continue_final_message",
        )
    return True


def sampling(wire: SamplingFields, limits: Limits, *, logprobs: int | None) -> Sampling:
    """Make valid sampling parameters; a field that is absent or null has its default."""
    max_tokens = wire.max_completion_tokens or wire.max_tokens
    named = "max_completion_tokens" if wire.max_completion_tokens else "max_tokens"
    if max_tokens is not None and max_tokens > limits.max_answer_tokens:
        raise InvalidRequest(
            f"`{named}` is too large: {max_tokens}. An answer has at most "
            f"{limits.max_answer_tokens} tokens here.",
            param=named,
        )
    if (wire.min_tokens or 0) > (max_tokens or limits.max_answer_tokens):
        raise InvalidRequest("`min_tokens` exceeds the longest answer.", param="min_tokens")
    differently_shaped = {
        "max_tokens": max_tokens,
        "top_k": wire.top_k if wire.top_k and wire.top_k > 0 else None,
        "stop": _stops(wire.stop),
        "logprobs": logprobs,
    }
    given: dict[str, Any] = {
        name: differently_shaped[name] if name in differently_shaped else getattr(wire, name)
        for name in Sampling.__struct_fields__
    }
    return Sampling(**{name: value for name, value in given.items() if value is not None})


def _stops(wire: str | list[str] | None) -> tuple[str, ...]:
    """Read one or several stop strings; empty ones, as from blank form fields, are ignored."""
    if isinstance(wire, str):
        return (wire,) if wire else ()
    return tuple(wire or ())
