"""The dialogues the trio is trained and measured on, as chat messages, from a folder of files."""

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal

import msgspec

END_OF_TEXT: Final = "<|endoftext|>"
MESSAGE_START: Final = "<|im_start|>"
MESSAGE_END: Final = "<|im_end|>"

Role = Literal["system", "user", "assistant"]


class Message(msgspec.Struct, frozen=True):
    """Turn of a chat."""

    role: Role
    content: str


class Dialogue(msgspec.Struct, frozen=True):
    """A chat; `services` names the Schema-Guided Dialogue services it is about."""

    id: str
    messages: tuple[Message, ...]
    services: tuple[str, ...] = ()


def render_chat(messages: tuple[Message, ...]) -> str:
    """A whole chat in ChatML, exactly as the tokenizer's chat template renders it."""
    return "".join(
        f"{MESSAGE_START}{message.role}\n{message.content}{MESSAGE_END}\n" for message in messages
    )


def read_dialogues(path: Path) -> Iterator[Dialogue]:
    """The dialogues of a gzipped JSON Lines file, in its order."""
    decoder = msgspec.json.Decoder(Dialogue)
    with gzip.open(path, "rb") as lines:
        for line in lines:
            yield decoder.decode(line)
