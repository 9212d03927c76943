"""Plan files: TOML as the plan that is sent, with the prompts of files read here."""

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import msgspec
from msgspec import Struct

from service.core.experiments.plan import FilePrompts, InlinePrompts, Plan


class _Line(Struct, frozen=True, forbid_unknown_fields=True):
    """Line of a JSONL file."""

    messages: list[dict[str, str]] | None = None
    text: str | None = None
    id: str | None = None


def read_plan(path: Path) -> Plan:
    """Read a plan. Raises ClickException naming file, field and fix."""
    try:
        plan = msgspec.toml.decode(path.read_bytes(), type=Plan)
    except (tomllib.TOMLDecodeError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise click.ClickException(f"{path}: {error}") from error
    except OSError as error:
        raise click.ClickException(f"{path}: {error.strerror}") from error
    if not isinstance(plan.prompts, FilePrompts):
        return plan
    prompts = plan.prompts
    items = read_prompts(path.parent / prompts.path)
    return msgspec.structs.replace(
        plan, prompts=InlinePrompts(items=items, new_tokens=prompts.new_tokens)
    )


def read_prompts(path: Path) -> tuple[str | list[dict[str, str]], ...]:
    """Read texts and conversations: JSON lines, or a text on each line of any other file.

    A JSON line is a text, a list of messages, or an object with `text` or `messages`.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise click.ClickException(f"{path}: is not UTF-8") from error
    except OSError as error:
        raise click.ClickException(f"{path}: {error.strerror}") from error
    filled = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not filled:
        raise click.ClickException(f"{path}: holds no prompt")
    if path.suffix != ".jsonl":
        return tuple(line for _, line in filled)
    return tuple(_decoded(filled, path))


def _decoded(lines: list[tuple[int, str]], path: Path) -> Iterator[str | list[dict[str, str]]]:
    for number, line in lines:
        try:
            value: Any = msgspec.json.decode(line, type=str | list[dict[str, str]] | _Line)
        except msgspec.DecodeError as error:
            raise click.ClickException(f"{path}, line {number}: {error}") from error
        if isinstance(value, _Line):
            if (value.messages is None) == (value.text is None):
                raise click.ClickException(
                    f"{path}, line {number}: give either `text` or `messages`"
                )
            value = value.text if value.messages is None else value.messages
        yield value
