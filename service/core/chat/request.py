"""Prompts and the request that every endpoint, engine and recorder shares."""

from typing import Literal

from msgspec import Struct

from service.core.chat.sampling import Sampling

Role = Literal["system", "user", "assistant", "tool"]


class Message(Struct, frozen=True, kw_only=True):
    """Turn of a conversation, text only."""

    role: Role
    content: str
    name: str | None = None


class ChatPrompt(Struct, frozen=True, tag="chat"):
    """Conversation, rendered with the model's chat template by the engine."""

    messages: tuple[Message, ...]
    continue_final_message: bool = False
    """Extend the last assistant turn instead of opening a new one."""


class TextPrompt(Struct, frozen=True, tag="text"):
    """Plain text, tokenized without a template."""

    text: str


class TokenPrompt(Struct, frozen=True, tag="tokens"):
    """Token ids, used as they are."""

    token_ids: tuple[int, ...]


Prompt = ChatPrompt | TextPrompt | TokenPrompt


class ChatRequest(Struct, frozen=True, kw_only=True):
    """Request on the path that chats, completions and comparisons share."""

    request_id: str
    model: str
    """Model, `model:variant` or route, as the client named it."""
    prompt: Prompt
    sampling: Sampling = Sampling()
    endpoint: Literal["chat", "completion", "compare", "experiment", "score"] = "chat"
    stream: bool = False
    echo: bool = False
    """Completions only: return the prompt before the answer, with its logprobs if asked for."""
    sticky_key: str | None = None
    """Key that keeps a client on one arm of a weighted route."""
    client_request_id: str | None = None
    """Caller's own id: a label, never a key."""
    comparison_id: str | None = None
    arm: int | None = None
    """Index in its comparison or experiment."""
    experiment_id: str | None = None
    shadow_of: str | None = None
    """Request that this one shadows."""
    cache_salt: str | None = None
    """Only requests of the same salt continue each other's prefixes."""
    prefix_cache: bool = True
    """Continue a prefix of earlier requests where that is possible, and leave one for later."""
    replay_of: str | None = None
    """Request whose conversation this one answers again."""
    accepted_ns: int
    """CLOCK_MONOTONIC at the moment the request was decoded and validated."""
    accepted_at_ns: int
    """Wall clock at that moment, nanoseconds since the epoch: a label only."""
    deadline_ns: int | None = None
    """CLOCK_MONOTONIC by which the answer has to be complete; None: no limit."""
