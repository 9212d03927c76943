"""Requests as frozen, valid values, independent of the wire format."""

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
