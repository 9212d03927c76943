"""A run as a table for people and as a document for programs, both from the same summary."""

from collections.abc import Sequence

import msgspec
from msgspec import UNSET, Struct, UnsetType
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from loadtest.observation import Observation
from loadtest.plan import Plan
from loadtest.reconcile import Reconciliation
from loadtest.schedule import Turn
from loadtest.summary import ModelSummary, RunSummary
from service.core.metrics import Quantiles

_UNKNOWN = "–"


class Document(Struct, frozen=True, kw_only=True):
    """Everything that a run says."""

    run_id: str
    begun_at_ns: int
    """Wall clock."""
    base_url: str
    plan: Plan
    summary: RunSummary
    reconciliation: Reconciliation | None
    """None if the service keeps no records."""
    observations: tuple[Observation, ...] | UnsetType = UNSET
    """Every measured request; only in files."""

    def encode(self) -> bytes:
        """Compact JSON on one line."""
        return msgspec.json.encode(self)


def tables(summary: RunSummary, reconciliation: Reconciliation | None) -> RenderableType:
    """What a person reads when a run has ended."""
    parts: list[RenderableType] = [_models(summary.models)]
    errors = [
        Text(f"{model.model}: {count} x {words}", style="red")
        for model in summary.models
        for words, count in model.errors.items()
    ]
    return Group(*parts, *errors, *_notes(summary), _reconciled(reconciliation))


def _models(models: Sequence[ModelSummary]) -> Table:
    table = Table(caption="ms, from the planned moment; p95 from 72 requests; state of one request")
    table.add_column("model", overflow="fold")
    for heading in (
        "ok", "errors", "TTFT p50", "p95", "TPOT p50", "p95", "e2e p50", "p95",
        "tokens/s", "bytes/s", "state",
    ):  # fmt: skip
        table.add_column(heading, justify="right")
    for model in models:
        table.add_row(
            model.model,
            str(model.ok),
            str(sum(model.errors.values())),
            *_pair(model.ttft_ms),
            *_pair(model.tpot_ms),
            *_pair(model.e2e_ms),
            number(model.total_tokens_per_s),
            number(model.total_bytes_per_s),
            size(model.live_state_bytes.p50),
        )
    return table


def _notes(summary: RunSummary) -> list[Text]:
    lag = summary.send_lag_ms
    notes = [
        Text(
            f"send lag p50 {number(lag.p50)} ms, p95 {number(lag.p95)} ms, max {number(lag.max)} "
            f"ms; client CPU {number(summary.client_cpu_percent)} %"
        )
    ]
    for model in summary.models:
        if model.cold:
            notes.append(Text(f"{model.model}: {model.cold} cold, left out of all times"))
        if model.unverified:
            notes.append(Text(f"{model.model}: failed its conformance probe", style="yellow"))
    for words, count in summary.warmup_errors.items():
        notes.append(Text(f"warm-up: {count} x {words}", style="red"))
    if summary.interrupted:
        notes.append(
            Text(
                f"interrupted after {summary.requests} of {summary.planned_requests} requests",
                style="yellow",
            )
        )
    notes += [Text(f"INVALID: {fault}", style="bold red") for fault in summary.invalid]
    return notes


def _reconciled(reconciliation: Reconciliation | None) -> Text:
    if reconciliation is None:
        return Text("records: the service has none to compare with", style="yellow")
    if reconciliation.complete:
        return Text(f"records: each of {reconciliation.checked} requests found once and equal")
    lines = [
        f"{what}: {one}"
        for what in ("missing", "duplicated", "differing")
        for one in getattr(reconciliation, what)
    ]
    return Text("records DO NOT AGREE\n" + "\n".join(lines), style="bold red")


def schedule_table(plan: Plan, turns: Sequence[Turn]) -> Table:
    """The order of models and the times of their requests, block by block."""
    total_s = sum(turn.duration_s for turn in turns)
    table = Table(
        title=plan.description or None,
        caption=f"{sum(len(turn.sends) for turn in turns)} requests; sending takes {total_s:.0f} "
        "s, answering the last of each turn comes on top",
    )
    for heading in ("block", "model", "requests", "first at s", "last at s"):
        table.add_column(heading, justify="left" if heading == "model" else "right")
    for turn in turns:
        table.add_row(
            str(turn.block),
            turn.model,
            str(len(turn.sends)),
            f"{turn.sends[0].offset_s:.2f}",
            f"{turn.duration_s:.2f}",
        )
    return table


def stdout_console() -> Console:
    """Wide enough for the table where nobody's window limits it."""
    console = Console()
    return console if console.is_terminal else Console(width=132)


def number(value: float | None) -> str:
    """Three significant digits; unknown is a dash."""
    if value is None:
        return _UNKNOWN
    magnitude = abs(value)
    digits = 0 if magnitude >= 100 else 1 if magnitude >= 10 else 2  # noqa: PLR2004 - digits
    return f"{value:,.{digits}f}"


def size(count: float | None) -> str:
    """Bytes in binary units."""
    if count is None:
        return _UNKNOWN
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:  # noqa: PLR2004 - binary units
            return f"{number(count) if unit != 'B' else round(count)} {unit}"
        count /= 1024
    return f"{number(count)} GiB"


def _pair(found: Quantiles) -> tuple[str, str]:
    return number(found.p50), number(found.p95)
