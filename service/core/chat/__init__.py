"""Requests as frozen, valid values: what the API makes of the wire for everything below it."""

from service.core.chat.request import (
    ChatPrompt,
    ChatRequest,
    Message,
    Prompt,
    Role,
    TextPrompt,
    TokenPrompt,
)
from service.core.chat.sampling import Sampling

__all__ = [
    "ChatPrompt",
    "ChatRequest",
    "Message",
    "Prompt",
    "Role",
    "Sampling",
    "TextPrompt",
    "TokenPrompt",
]
