"""Prompts: JSON lines of an id and a conversation."""

from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from loadtest.errors import LoadTestError


class Message(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: Annotated[str, Meta(min_length=1)]


class Prompt(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A conversation that the model is to continue."""

    id: Annotated[str, Meta(min_length=1)]
    messages: Annotated[tuple[Message, ...], Meta(min_length=1)]


def load_prompts(name: str, beside: Path) -> tuple[Prompt, ...]:
    """Load a shipped set by its name, or a file relative to the folder *beside*.

    Raises:
        LoadTestError: There is no such set, or a line of it is wrong.
    """
    source: Traversable = files("loadtest") / "prompts" / f"{name}.jsonl"
    if name.endswith(".jsonl"):
        source = beside / name
    try:
        lines = source.read_bytes().splitlines()
    except OSError as error:
        raise LoadTestError(f"prompts {name!r}: {source} cannot be read") from error
    prompts = tuple(
        _decode(line, f"{source}:{number}") for number, line in enumerate(lines, 1) if line.strip()
    )
    if not prompts:
        raise LoadTestError(f"prompts {name!r}: {source} is empty")
    return prompts


def _decode(line: bytes, place: str) -> Prompt:
    try:
        return msgspec.json.decode(line, type=Prompt)
    except msgspec.DecodeError as error:
        raise LoadTestError(f"{place}: {error}") from error
