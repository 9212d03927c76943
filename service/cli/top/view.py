"""View of `triptych top`: memory against the budget, and one line a model."""

from collections.abc import Sequence

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from service.cli.compare.view import COLOURS
from service.cli.top.rates import Rates
from service.cli.top.source import Row, Snapshot
from service.core.sizes import human_bytes
from service.serving.memory.report import MemoryReport, ProcessUse

_UNKNOWN = "–"
_RESTING = ("unloaded", "unavailable")
#: Narrower terminals get two columns less.
WIDE = 110
_HELD, _RESERVED, _FREE = "█", "▓", "░"
_STATE_STYLES = {"ready": "green", "unverified": "yellow", "loading": "cyan", "failed": "red"}


class MemoryBar:
    """The budget as a bar: one segment per model, reservations, free memory."""

    def __init__(self, memory: MemoryReport, held: Sequence[tuple[int, str]]) -> None:
        """Take bytes and colour of each model."""
        self._memory = memory
        self._held = held

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Render the bar at full width."""
        yield self.line(options.max_width)

    def line(self, width: int) -> Text:
        """The bar in *width* cells."""
        budget = max(1, self._memory.budget_bytes, self._memory.used_bytes)
        bar = Text()
        for count, colour in self._held:
            left = width - len(bar)
            bar.append(_HELD * min(left, max(1, round(width * count / budget))), style=colour)
        reserved = round(width * self._memory.used_bytes / budget) - len(bar)
        bar.append(_RESERVED * max(0, reserved), style="dim")
        bar.append(_FREE * (width - len(bar)), style="dim")
        return bar


def frame(url: str, seen: Snapshot, rates: Rates, *, width: int = WIDE) -> RenderableType:
    """The view of one reading, in *width* cells."""
    busy = [row for row in seen.rows if row.use.status not in _RESTING or row.use.requests]
    busy.sort(key=lambda row: row.use.id)
    colours = {row.use.id: COLOURS[i % len(COLOURS)] for i, row in enumerate(busy)}
    held = [(row.held_bytes, colours[row.use.id]) for row in busy if row.held_bytes]
    memory = seen.memory
    notes = [Text(f"{row.use.id}: {row.card.error}", style="red") for row in busy if row.card.error]
    return Group(
        _headline(url, busy, rates),
        Text(),
        Text(
            f"memory  {human_bytes(memory.used_bytes)} of {human_bytes(memory.budget_bytes)}, "
            f"{human_bytes(memory.free_bytes)} free"
        ),
        MemoryBar(memory, held),
        _processes(memory.processes),
        Text(),
        _table(busy, colours, rates, wide=width >= WIDE)
        if busy
        else Text("no model is loaded", style="dim"),
        *notes,
        _others(seen.rows, busy),
    )


def waiting(url: str, reason: str) -> RenderableType:
    """View while the service does not answer."""
    return Group(
        _title(url),
        Text(),
        Text(reason, style="red"),
        Text("trying again; press q to quit", style="dim"),
    )


def _title(url: str) -> Text:
    return Text.assemble(("triptych", "bold"), " at ", (url, "bold"))


def _headline(url: str, rows: Sequence[Row], rates: Rates) -> Text:
    running, queued = sum(row.running for row in rows), sum(row.queued for row in rows)
    known = [rate for row in rows if (rate := rates.of(row.use.id)) is not None]
    total = f"{sum(known):,.0f}" if known else _UNKNOWN
    line = _title(url)
    line.append(f"   {running} running, {queued} queued, {total} tokens/s")
    return line


def _processes(processes: Sequence[ProcessUse]) -> Text:
    parts = [
        f"{process.name} {human_bytes(process.rss_bytes)}"
        for process in processes
        if process.rss_bytes is not None
    ]
    return Text(f"resident  {', '.join(parts) or _UNKNOWN}", style="dim")


def _table(rows: Sequence[Row], colours: dict[str, str], rates: Rates, *, wide: bool) -> Table:
    table = Table(box=None, header_style="bold", expand=True)
    table.add_column("model", no_wrap=True, overflow="ellipsis")
    table.add_column("status", no_wrap=True)
    numbers = ["run", "queue", "slots", "tok/s", "weights", "state"]
    for heading in [*numbers, "workspace", "family"] if wide else numbers:
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        use = row.use
        cells = [
            str(row.running),
            str(row.queued),
            _slots(row),
            _rate(rates.of(use.id)),
            _bytes(use.weights_bytes),
            _bytes(_sum(use.slots_bytes, use.snapshots_bytes)),
        ]
        more = [_bytes(use.workspace_bytes), row.family or _UNKNOWN] if wide else []
        name = Text(f"{use.id} (pinned)" if use.pinned else use.id)
        name.stylize(f"bold {colours[use.id]}")
        table.add_row(name, _state(row), *cells, *more)
    return table


def _state(row: Row) -> Text:
    state, progress = row.use.status, row.card.progress
    style = _STATE_STYLES.get(state, "")
    if state == "loading" and progress is not None:
        share = ""
        if progress.done_bytes is not None and progress.total_bytes:
            share = f" {100 * progress.done_bytes / progress.total_bytes:.0f} %"
        return Text(f"loading {progress.stage}{share}", style=style)
    if row.card.error and state not in ("failed", *_RESTING):
        return Text("down", style="red")
    return Text(state, style=style)


def _others(rows: Sequence[Row], busy: Sequence[Row]) -> Text:
    resting = len(rows) - len(busy)
    return Text(f"{resting} more can be loaded" if resting else "", style="dim")


def _slots(row: Row) -> str:
    used, total = row.use.slots_used, row.use.slots_total
    return _UNKNOWN if total is None else f"{_UNKNOWN if used is None else used}/{total}"


def _rate(per_s: float | None) -> str:
    return _UNKNOWN if per_s is None else f"{per_s:,.0f}"


def _bytes(count: int | None) -> str:
    return _UNKNOWN if count is None else human_bytes(count)


def _sum(*counts: int | None) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if known else None
