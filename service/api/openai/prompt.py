"""Converts conversations and prompts of request bodies to the values that engines take."""

from collections.abc import Sequence

from service.api.openai.schema import MOST_PROMPTS, WireMessage
from service.core.chat import Message, Prompt, Role, TextPrompt, TokenPrompt
from service.core.errors import InvalidRequest, UnsupportedField


def messages(wire: Sequence[WireMessage]) -> tuple[Message, ...]:
    """Read turns as text; parts of a message are joined by newlines. Raises UnsupportedField."""
    return tuple(_message(message, f"messages[{index}]") for index, message in enumerate(wire))


def _message(wire: WireMessage, where: str) -> Message:
    for field in ("tool_calls", "tool_call_id", "function_call"):
        if getattr(wire, field):
            raise UnsupportedField(f"`{field}` is not supported.", param=f"{where}.{field}")
    role: Role = "system" if wire.role == "developer" else wire.role
    return Message(role=role, content=_text(wire, where), name=wire.name)


def _text(wire: WireMessage, where: str) -> str:
    match wire.content:
        case str():
            return wire.content
        case None:
            if wire.role in ("assistant", "tool"):
                return ""
            raise InvalidRequest("`content` is missing.", param=f"{where}.content")
        case _:
            texts = []
            for number, part in enumerate(wire.content):
                at = f"{where}.content[{number}]"
                if part.type != "text":
                    raise UnsupportedField("Only text parts are supported.", param=f"{at}.type")
                if part.text is None:
                    raise InvalidRequest("`text` is missing.", param=f"{at}.text")
                texts.append(part.text)
            return "\n".join(texts)


def prompts_of(wire: str | list[str | int | list[int]]) -> tuple[Prompt, ...]:
    """Read text, token ids, or a list of either, all of one kind."""
    if isinstance(wire, str):
        return (TextPrompt(wire),)
    if all(isinstance(item, int) for item in wire):
        return (TokenPrompt(tuple(item for item in wire if isinstance(item, int))),)
    if len(wire) > MOST_PROMPTS:
        raise InvalidRequest(f"A request has at most {MOST_PROMPTS} prompts.", param="prompt")
    if all(isinstance(item, str) for item in wire):
        return tuple(TextPrompt(item) for item in wire if isinstance(item, str))
    if all(isinstance(item, list) for item in wire):
        return tuple(TokenPrompt(tuple(item)) for item in wire if isinstance(item, list))
    raise InvalidRequest("`prompt` mixes texts and token ids.", param="prompt")
