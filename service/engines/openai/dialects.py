"""Differences between servers of the OpenAI API: request fields beyond it, and what they report."""

from typing import Any, Final, Literal

from msgspec import Struct

from service.core.chat import ChatPrompt, ChatRequest, TextPrompt
from service.core.chat.sampling import PARAMETERS, Sampling, ServerKind
from service.core.errors import UnsupportedField
from service.engines.openai.schema import Chunk


class Dialect(Struct, frozen=True, kw_only=True):
    """Kind of server of the OpenAI API."""

    name: ServerKind
    always: dict[str, Any] = {}
    """Sent with every request, so that the server reports more."""
    continuation: dict[str, bool] | None = None
    """Fields that make it continue the last message of a chat; None if it cannot."""
    echo: Literal["ahead", "along"] | None = None
    """`ahead`: an echoed prompt arrives in a chunk of its own. `along`: its tokens arrive with the
    first chunk of the answer, and its text not at all. None: echo is not supported."""
    short_completions: bool = False
    """A completion without `max_tokens` ends after 16 tokens."""
    salts: bool = False
    """It keeps prefixes apart by `cache_salt`."""
    bypasses: bool = False
    """It computes the whole prompt with `prefix_cache: false`."""
    tokenizes: bool = False
    """It has vLLM's `/tokenize` and `/detokenize`."""


DIALECTS: Final[dict[ServerKind, Dialect]] = {
    dialect.name: dialect
    for dialect in (
        Dialect(
            name="vllm",
            always={"return_token_ids": True},
            continuation={"continue_final_message": True, "add_generation_prompt": False},
            echo="along",
            short_completions=True,
            salts=True,
            tokenizes=True,
        ),
        Dialect(
            name="triptych",
            always={"return_token_ids": True},
            continuation={"continue_final_message": True},
            echo="ahead",
            salts=True,
            bypasses=True,
            tokenizes=True,
        ),
        Dialect(name="llama.cpp"),
        Dialect(name="openai"),
    )
}

_DEFAULTS: Final = Sampling()

#: Sent even where they are the defaults: a server may have defaults of its own.
_ALWAYS_SENT: Final = ("temperature", "top_p")

#: Written by `body`, since chats and completions differ.
_BY_ENDPOINT: Final = ("max_tokens", "logprobs")


def body(
    request: ChatRequest, model: str, dialect: Dialect, *, max_tokens: int | None
) -> dict[str, Any]:
    """Write a request for the server. Raises UnsupportedField for what it does not know."""
    prompt, sampling = request.prompt, request.sampling
    wanted: dict[str, Any] = {
        "model": model,
        "stream": True,
        "stream_options": {"include_usage": True},
        **_sampling(sampling, dialect),
        **dialect.always,
        **_cache(request, dialect),
    }
    if isinstance(prompt, ChatPrompt):
        wanted["messages"] = wire_messages(prompt)
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
    # Null when unset: without the field, OpenAI's servers end a completion after 16 tokens.
    wanted["max_tokens"] = max_tokens
    if request.echo:
        if dialect.echo is None:
            raise _unsupported("echo", dialect)
        wanted["echo"] = True
    if sampling.logprobs is not None:
        wanted["logprobs"] = sampling.logprobs
    return wanted


def _cache(request: ChatRequest, dialect: Dialect) -> dict[str, Any]:
    """Write what concerns the server's own prefix cache.

    That a whole prompt is computed cannot be asked of other servers: `cached_tokens` tells.
    """
    wanted: dict[str, Any] = {}
    if dialect.bypasses and not request.prefix_cache:
        wanted["prefix_cache"] = False
    if request.cache_salt is not None:
        if dialect.salts:
            wanted["cache_salt"] = request.cache_salt
        elif request.endpoint != "experiment":  # whose salt no client has asked for
            raise _unsupported("cache_salt", dialect)
    return wanted


def wire_messages(prompt: ChatPrompt) -> list[dict[str, str]]:
    """Write the turns of a conversation. An absent name is left out, since null is refused."""
    return [
        {"role": each.role, "content": each.content} | ({"name": each.name} if each.name else {})
        for each in prompt.messages
    ]


def _sampling(sampling: Sampling, dialect: Dialect) -> dict[str, Any]:
    """Write the parameters that differ from their defaults, under the server's names."""
    named: dict[str, Any] = {}
    for field in Sampling.__struct_fields__:
        value = getattr(sampling, field)
        changed = value != getattr(_DEFAULTS, field)
        if field in _BY_ENDPOINT or not (changed or field in _ALWAYS_SENT):
            continue
        name = PARAMETERS[field].servers.get(dialect.name)
        if name is None:
            raise _unsupported(field, dialect)
        named[name] = value
    return named


def _unsupported(field: str, dialect: Dialect) -> UnsupportedField:
    return UnsupportedField(
        f"`{field}` is not supported by the server of this model, which is of kind {dialect.name}.",
        param=field,
    )


def prefill_ms(last: Chunk) -> float | None:
    """Prefill time as the server reports it, None if it does not."""
    metrics = last.metrics
    if metrics is not None and metrics.time_to_first_token_ms is not None:
        return max(0.0, metrics.time_to_first_token_ms - (metrics.queue_time_ms or 0.0))
    if metrics is not None:
        return metrics.prefill_ms
    return last.timings.prompt_ms if last.timings is not None else None


def cached_tokens(last: Chunk) -> int | None:
    """Prompt tokens that the server reports as taken from its cache, None if it does not."""
    if last.usage is not None and last.usage.prompt_tokens_details is not None:
        return last.usage.prompt_tokens_details.cached_tokens
    if last.metrics is not None:
        return last.metrics.cached_tokens
    return last.timings.cache_n if last.timings is not None else None
