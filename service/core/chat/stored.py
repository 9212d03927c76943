"""Stored form of a prompt: text, or JSON that says what it is; read back to the same prompt."""

from typing import Any

import msgspec
from msgspec import Struct

from service.core.chat.request import ChatPrompt, Message, Prompt, TextPrompt, TokenPrompt
from service.core.chat.sampling import Sampling

#: A text that begins like JSON is wrapped, so that it is not read as something else.
_LIKE_JSON = ("[", "{")


class _Text(Struct, frozen=True, forbid_unknown_fields=True):
    text: str


class _Continued(Struct, frozen=True, forbid_unknown_fields=True):
    messages: tuple[Message, ...]
    continue_final_message: bool


def stored_prompt(prompt: Prompt) -> str:
    """Text verbatim, a conversation as its messages, tokens as their ids."""
    stored: Any
    match prompt:
        case TextPrompt(text) if not text.startswith(_LIKE_JSON):
            return text
        case TextPrompt(text):
            stored = _Text(text)
        case ChatPrompt(messages, continue_final_message=True):
            stored = _Continued(messages, continue_final_message=True)
        case ChatPrompt(messages):
            stored = messages
        case TokenPrompt(token_ids):
            stored = token_ids
    return msgspec.json.encode(stored).decode()


def read_prompt(stored: str) -> Prompt:
    """Read the prompt that was stored; what is no JSON of it is a text."""
    if not stored.startswith(_LIKE_JSON):
        return TextPrompt(stored)
    if (text := _decoded(stored, _Text)) is not None:
        return TextPrompt(text.text)
    if (chat := _decoded(stored, _Continued)) is not None:
        return ChatPrompt(chat.messages, continue_final_message=chat.continue_final_message)
    if (token_ids := _decoded(stored, tuple[int, ...])) is not None:
        return TokenPrompt(token_ids)
    if (messages := _decoded(stored, tuple[Message, ...])) is not None:
        return ChatPrompt(messages)
    return TextPrompt(stored)


def read_sampling(changed: dict[str, object] | None) -> Sampling:
    """Read the parameters of a record, which keeps those that differ from their defaults.

    Raises msgspec.ValidationError.
    """
    # Through JSON, whose object keys are the token ids of `logit_bias`.
    return msgspec.json.decode(msgspec.json.encode(changed or {}), type=Sampling)


def _decoded(stored: str, kind: Any) -> Any:  # noqa: ANN401 (of any type)
    try:
        return msgspec.json.decode(stored, type=kind)
    except msgspec.DecodeError:
        return None
