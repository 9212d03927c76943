"""Markdown of a report: answers, what could not be said, numbers, environment."""

import json
import re
from collections.abc import Iterable, Iterator, Sequence

from service.core.experiments.report import Report
from service.serving.experiments.report.sections import Section, sections

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>()#+!|~])")


def markdown(report: Report) -> str:
    """Return the report as Markdown; names and prompts cannot break out of their place."""
    return "\n".join(_lines(report)) + "\n"


def _lines(report: Report) -> Iterator[str]:
    yield f"# {escape(report.name)}"
    yield ""
    for section in sections(report):
        yield from _section(section)
    yield "## Environment"
    yield ""
    if report.environment:
        yield from _fenced(json.dumps(report.environment, indent=2, default=str))
    else:
        yield "Nothing is known of it."


def _section(section: Section) -> Iterator[str]:
    yield f"## {section.title}"
    yield ""
    if section.note:
        yield escape(section.note)
        yield ""
    if section.sentences:
        yield from (f"- {escape(sentence)}" for sentence in section.sentences)
        yield ""
    for table in section.tables:
        yield f"**{escape(table.caption)}**"
        yield ""
        yield from _table(table.header, table.rows)
        yield ""


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield _row(header)
    yield "|" + "---|" * len(header)
    yield from (_row(row) for row in rows)


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(escape(cell) for cell in cells) + " |"


def _fenced(text: str) -> Iterator[str]:
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    yield f"{fence}json"
    yield from text.splitlines()
    yield fence


def escape(text: str) -> str:
    """Return text that Markdown shows as it is, on one line."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))
