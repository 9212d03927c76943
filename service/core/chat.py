"""What a client asks for, valid and frozen. Nobody below `api/` sees the wire."""

from typing import Literal

from msgspec import Struct

Role = Literal["system", "user", "assistant", "tool"]


class Message(Struct, frozen=True, kw_only=True):
    """One turn of a conversation, text only."""

    role: Role
    content: str
    name: str | None = None


class ChatPrompt(Struct, frozen=True, tag="chat"):
    """A conversation, rendered with the model's chat template by the engine."""

    messages: tuple[Message, ...]
    continue_final_message: bool = False
    """Extend the last assistant turn instead of opening a new one."""


class TextPrompt(Struct, frozen=True, tag="text"):
    """Plain text, tokenized without a template."""

    text: str


class TokenPrompt(Struct, frozen=True, tag="tokens"):
    """Token ids, taken as they are."""

    token_ids: tuple[int, ...]


Prompt = ChatPrompt | TextPrompt | TokenPrompt


class Sampling(Struct, frozen=True, kw_only=True):
    """How the next token is chosen and when to stop; the defaults leave the distribution alone."""

    temperature: float = 1.0
    """0 is greedy."""
    top_p: float = 1.0
    top_k: int | None = None
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    """Divides positive and multiplies negative logits of seen tokens, prompt and answer (CTRL)."""
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: dict[int, float] = {}
    seed: int | None = None
    """Same seed, same text, alone or in a batch."""
    max_tokens: int | None = None
    """None: until the context is full."""
    min_tokens: int = 0
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    logprobs: int | None = None
    """Alternatives to report for each token; 0 reports the chosen token alone, None nothing."""


class ChatRequest(Struct, frozen=True, kw_only=True):
    """One request on the one path that chat, completion and compare share."""

    request_id: str
    model: str
    """As the client named it: a model, `model:variant`, or a route."""
    prompt: Prompt
    sampling: Sampling = Sampling()
    endpoint: Literal["chat", "completion", "compare"] = "chat"
    stream: bool = False
    echo: bool = False
    """Completions only: the prompt is part of the answer, with its logprobs if asked for."""
    sticky_key: str | None = None
    """What keeps a client on the same arm of a weighted route."""
    client_request_id: str | None = None
    """The caller's own id: a label, never a key."""
    comparison_id: str | None = None
    arm: int | None = None
    """Position in the comparison it belongs to."""
    accepted_ns: int
    """CLOCK_MONOTONIC when the request was decoded and found valid."""
    accepted_at_ns: int
    """Wall clock of the same moment, nanoseconds since the epoch: a label only."""
