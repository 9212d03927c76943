"""ChatTemplate: conversations as text, by a model's own template in a sandbox.

Contents are data, never control: a special token that a message contains is carried through the
template as a private-use character and comes out as literal text (`Rendered.literals`).
"""

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import Any, Final

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from msgspec import Struct

from service.core.chat import ChatPrompt, Message
from service.core.errors import InvalidRequest, ModelNotReady

CHATML: Final = (
    "{% for message in messages %}"
    "{% set header = '<|im_start|>' + message['role'] + '\\n' %}"
    "{{ header + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""Template for models that were trained on ChatML and ship none."""

_PRIVATE_USE: Final = range(0xF0000, 0x10FFFE)


class Rendered(Struct, frozen=True):
    """Rendered text, in which each character of `literals` stands for plain text."""

    text: str
    literals: dict[str, str] = {}

    @property
    def plain(self) -> str:
        """The text with its literals in place."""
        if not self.literals:
            return self.text
        return self.text.translate({ord(mark): token for mark, token in self.literals.items()})


class ChatTemplate:
    """A compiled chat template. Raises ModelNotReady if it cannot be compiled."""

    def __init__(
        self, source: str, *, special_tokens: Collection[str], names: Mapping[str, str]
    ) -> None:
        self.source = source
        self._names = dict(names)
        ordered = sorted(filter(None, special_tokens), key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, ordered))) if ordered else None
        try:
            self._template = _environment().from_string(source)
        except jinja2.TemplateError as error:
            raise ModelNotReady(f"the chat template cannot be compiled: {error}") from error

    def render(self, prompt: ChatPrompt, *, opens_answer: bool = True) -> Rendered:
        """Render a conversation, up to the beginning of an answer unless that is not wanted.

        Raises InvalidRequest with the template's own message.
        """
        if not prompt.messages:
            raise InvalidRequest("The conversation is empty.", param="messages")
        marks = _Marks(prompt.messages, self._special)
        messages = [marks.shield(message) for message in prompt.messages]
        tail = ""
        if prompt.continue_final_message:
            if prompt.messages[-1].role != "assistant":
                raise InvalidRequest(
                    "Only a final message of the assistant can be continued.", param="messages"
                )
            tail = marks.unused()
            messages[-1]["content"] += tail
        try:
            text = self._template.render(
                messages=messages,
                add_generation_prompt=opens_answer and not prompt.continue_final_message,
                tools=None,
                documents=None,
                **self._names,
            )
        except (jinja2.TemplateError, TypeError, ValueError, LookupError) as error:
            raise InvalidRequest(
                f"The model's chat template refuses the conversation: {error}", param="messages"
            ) from error
        if tail:
            text, found, _ = text.rpartition(tail)
            if not found:
                raise InvalidRequest(
                    "The model's chat template drops the final message.", param="messages"
                )
        return Rendered(text, marks.literals)


class _Marks:
    """Private-use characters, absent from all messages, that stand for special tokens."""

    def __init__(self, messages: Sequence[Message], special: "re.Pattern[str] | None") -> None:
        self._special = special
        self._by_token: dict[str, str] = {}
        self._messages = messages

    @property
    def literals(self) -> dict[str, str]:
        return {mark: token for token, mark in self._by_token.items()}

    @cached_property
    def _free(self) -> Iterator[str]:
        used = set("".join(f"{each.content}{each.name or ''}" for each in self._messages))
        return (mark for code in _PRIVATE_USE if (mark := chr(code)) not in used)

    def unused(self) -> str:
        mark = next(self._free, None)
        if mark is None:
            raise InvalidRequest("The messages use every private-use character.", param="messages")
        return mark

    def shield(self, message: Message) -> dict[str, str]:
        shielded = {"role": str(message.role), "content": self._replace(message.content)}
        if message.name is not None:
            shielded["name"] = self._replace(message.name)
        return shielded

    def _replace(self, text: str) -> str:
        return self._special.sub(self._mark, text) if self._special else text

    def _mark(self, match: "re.Match[str]") -> str:
        token = match.group()
        if token not in self._by_token:
            self._by_token[token] = self.unused()
        return self._by_token[token]


class _Generation(Extension):
    """`{% generation %}`, which marks tokens for training: renders its body."""

    tags = {"generation"}  # noqa: RUF012  jinja's own interface

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


def _tojson(
    value: Any,  # noqa: ANN401
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _strftime_now(form: str) -> str:
    return datetime.now().astimezone().strftime(form)
