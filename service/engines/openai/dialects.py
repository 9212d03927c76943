"""How servers of the OpenAI API differ: what they can be asked beyond it, and what they tell."""

from typing import Any, Final, Literal

from msgspec import Struct

from service.core.chat import ChatPrompt, ChatRequest, Sampling, TextPrompt
from service.core.errors import UnsupportedField
from service.engines.openai.schema import Chunk

DialectName = Literal["vllm", "llama.cpp", "triptych", "openai"]


class Dialect(Struct, frozen=True, kw_only=True):
    """One kind of server."""

    name: DialectName
    fields: dict[str, str] = {}
    """Fields of `Sampling` beyond OpenAI's API, and what the server calls them."""
    always: dict[str, Any] = {}
    """Sent with every request, so that the server tells more."""
    continuation: dict[str, bool] | None = None
    """Sent so that it goes on with the last message of a chat; None if it cannot."""
    echo: Literal["ahead", "along"] | None = None
    """An echoed prompt comes in a piece of its own, or its tokens come along with the first of the
    answer and its text not at all; None if it cannot be asked for."""
    short_completions: bool = False
    """Whether a completion that names no `max_tokens` ends after 16."""
    tokenizes: bool = False
    """Whether it has vLLM's `/tokenize` and `/detokenize`."""


_BEYOND: Final = ("top_k", "min_p", "repetition_penalty", "min_tokens", "ignore_eos")

DIALECTS: Final[dict[DialectName, Dialect]] = {
    dialect.name: dialect
    for dialect in (
        Dialect(
            name="vllm",
            fields=dict(zip(_BEYOND, _BEYOND, strict=True)),
            always={"return_token_ids": True},
            continuation={"continue_final_message": True, "add_generation_prompt": False},
            echo="along",
            short_completions=True,
            tokenizes=True,
        ),
        Dialect(
            name="triptych",
            fields=dict(zip(_BEYOND, _BEYOND, strict=True)),
            always={"return_token_ids": True},
            continuation={"continue_final_message": True},
            echo="ahead",
            tokenizes=True,
        ),
        Dialect(
            name="llama.cpp",
            fields={
                "top_k": "top_k",
                "min_p": "min_p",
                "repetition_penalty": "repeat_penalty",
                "ignore_eos": "ignore_eos",
            },
        ),
        Dialect(name="openai"),
    )
}

_DEFAULTS: Final = Sampling()


def body(
    request: ChatRequest, model: str, dialect: Dialect, *, max_tokens: int | None
) -> dict[str, Any]:
    """A request as the server is to be asked. Raises UnsupportedField for what it cannot do."""
    prompt, sampling = request.prompt, request.sampling
    wanted: dict[str, Any] = {
        "model": model,
        "stream": True,
        "stream_options": {"include_usage": True},
        # Named even where they are the defaults: a server may have defaults of its own.
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        **_sampling(sampling, dialect),
        **dialect.always,
    }
    if isinstance(prompt, ChatPrompt):
        wanted["messages"] = spoken(prompt)
        if prompt.continue_final_message:
            if dialect.continuation is None:
                raise _unsupported("continue_final_message", dialect)
            wanted |= dialect.continuation
        if sampling.logprobs is not None:
            wanted |= {"logprobs": True, "top_logprobs": sampling.logprobs}
        if max_tokens is not None:
            wanted["max_tokens"] = max_tokens
        return wanted
    wanted["prompt"] = prompt.text if isinstance(prompt, TextPrompt) else list(prompt.token_ids)
    # Null, because OpenAI ends a completion that names nothing after 16 tokens.
    wanted["max_tokens"] = max_tokens
    if request.echo:
        if dialect.echo is None:
            raise _unsupported("echo", dialect)
        wanted["echo"] = True
    if sampling.logprobs is not None:
        wanted["logprobs"] = sampling.logprobs
    return wanted


def spoken(prompt: ChatPrompt) -> list[dict[str, str]]:
    """The turns of a conversation; a name that is not given is left out, since null is refused."""
    return [
        {"role": each.role, "content": each.content} | ({"name": each.name} if each.name else {})
        for each in prompt.messages
    ]


def _sampling(sampling: Sampling, dialect: Dialect) -> dict[str, Any]:
    """The fields that differ from their defaults, in the server's words."""
    named: dict[str, Any] = {
        name: getattr(sampling, name)
        for name in ("presence_penalty", "frequency_penalty", "seed")
        if getattr(sampling, name) != getattr(_DEFAULTS, name)
    }
    if sampling.stop:
        named["stop"] = list(sampling.stop)
    if sampling.logit_bias:
        named["logit_bias"] = {str(token): bias for token, bias in sampling.logit_bias.items()}
    for name in _BEYOND:
        value = getattr(sampling, name)
        if value == getattr(_DEFAULTS, name):
            continue
        if name not in dialect.fields:
            raise _unsupported(name, dialect)
        named[dialect.fields[name]] = value
    return named


def _unsupported(field: str, dialect: Dialect) -> UnsupportedField:
    return UnsupportedField(
        f"`{field}` cannot be passed on: a server of the kind {dialect.name} does not know it.",
        param=field,
    )


def prefill_ms(last: Chunk) -> float | None:
    """How long the server says that it read the prompt, None if it does not say."""
    metrics = last.metrics
    if metrics is not None and metrics.time_to_first_token_ms is not None:
        return max(0.0, metrics.time_to_first_token_ms - (metrics.queue_time_ms or 0.0))
    if metrics is not None:
        return metrics.prefill_ms
    return last.timings.prompt_ms if last.timings is not None else None


def cached_tokens(last: Chunk) -> int | None:
    """How many of the prompt's tokens it says that it did not compute anew."""
    if last.usage is not None and last.usage.prompt_tokens_details is not None:
        return last.usage.prompt_tokens_details.cached_tokens
    if last.metrics is not None:
        return last.metrics.cached_tokens
    return last.timings.cache_n if last.timings is not None else None
