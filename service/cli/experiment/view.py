"""View of experiments: the list, the progress bar, and medians by arm and context."""

import statistics
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from service.core.sizes import human_bytes

WAITS: Final = {
    "busy": "paused: other requests run",
    "model": "waits for a model",
    "store": "waits for the store",
}

_TIMED: Final = ("speed", "memory", "turns")


def progress_bar() -> Progress:
    """A bar with the trials done, the time, and what the run waits for."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )


def note(progress: dict[str, Any]) -> str:
    """What there is to say beside the bar."""
    failed = f"{progress['failed']} failed" if progress["failed"] else ""
    waits = WAITS.get(progress["waits_for"], "")
    queued = "waits for its turn" if progress["state"] == "queued" else ""
    return " · ".join(part for part in (failed, waits, queued) if part)


def listing(experiments: Sequence[dict[str, Any]]) -> Table:
    """One experiment a row."""
    table = Table(box=None)
    for name in ("id", "name", "state", "created"):
        table.add_column(name, overflow="fold")
    table.add_column("trials", justify="right")
    for each in experiments:
        created = datetime.fromtimestamp(each["created_at_ns"] / 1e9, UTC)
        done = f"{each['done']}/{each['planned']}"
        table.add_row(each["id"], each["name"], each["state"], f"{created:%F %R}Z", done)
    return table


def medians(plan: dict[str, Any], trials: Sequence[dict[str, Any]]) -> Table:
    """Median TTFT, TPOT and memory of each arm by context or turn; a look, not a verdict."""
    table = Table(box=None, title="medians", title_justify="left")
    table.add_column("model")
    for name in ("tokens", "trials", "TTFT", "TPOT", "memory"):
        table.add_column(name, justify="right")
    groups: dict[tuple[int, int, int], list[dict[str, Any]]] = {}
    for trial in trials:
        if trial["measure"] in _TIMED and not trial["warmup"] and trial["state"] == "done":
            context = trial["context_tokens"] or 0
            groups.setdefault((trial["arm"], trial["turn"] or 0, context), []).append(trial)
    for (arm, turn, context), found in sorted(groups.items()):
        table.add_row(
            plan["arms"][arm]["model"],
            f"turn {turn}" if turn else f"{context:,}" if context else "all",
            str(len(found)),
            _median(found, "ttft_ms", _ms),
            _median(found, "tpot_ms", _ms),
            _median(found, "memory_bytes", human_bytes),
        )
    return table


def _median(trials: Sequence[dict[str, Any]], name: str, show: Callable[[float], str]) -> str:
    values = [each["values"].get(name) for each in trials]
    known = [value for value in values if value is not None]
    return show(statistics.median(known)) if known else "–"


def _ms(value: float) -> str:
    return f"{value:,.1f} ms"
