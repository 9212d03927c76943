"""A run as tables for people and as a document for programs, both from the same summary."""

from collections.abc import Sequence

import msgspec
from msgspec import UNSET, Struct, UnsetType
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from loadtest.observation import Observation
from loadtest.plan import Plan
from loadtest.results.censored import CensoredQuantiles, Ranked
from loadtest.results.reconciliation import Reconciliation
from loadtest.results.summary import ModelSummary, RunSummary
from loadtest.schedule import Turn
from service.core.sizes import human_bytes

_UNKNOWN = "–"


class Document(Struct, frozen=True, kw_only=True):
    """Results of a run."""

    run_id: str
    begun_at_ns: int
    """Wall clock."""
    base_url: str
    plan: Plan
    summary: RunSummary
    reconciliation: Reconciliation | None
    """None if the service keeps no records, or they cannot be read."""
    observations: tuple[Observation, ...] | UnsetType = UNSET
    """Every measured request; only in files."""

    def encode(self) -> bytes:
        """Compact JSON on one line."""
        return msgspec.json.encode(self)


def tables(summary: RunSummary, reconciliation: Reconciliation | None) -> RenderableType:
    """A run for people: models, agreement with the service, notes, records."""
    errors = [
        Text(f"{model.model}: {count} x {reason}", style="red")
        for model in summary.models
        for reason, count in model.errors.items()
    ]
    return Group(
        _models(summary.models),
        _agreement(summary.models),
        *errors,
        *_notes(summary),
        _reconciled(reconciliation),
    )


def _models(models: Sequence[ModelSummary]) -> Table:
    table = Table(
        caption="ms, from the planned moment; p95 from 72 requests; requests without a whole "
        "answer rank above all (censored); state of one request"
    )
    table.add_column("model", overflow="fold")
    for heading in (
        "ok", "errors", "goodput", "TTFT p50", "p95", "TPOT p50", "p95", "e2e p50", "p95",
        "tokens/s", "bytes/s", "state",
    ):  # fmt: skip
        table.add_column(heading, justify="right")
    for model in models:
        live_bytes = model.live_state_bytes.p50
        table.add_row(
            model.model,
            str(model.ok),
            str(sum(model.errors.values())),
            _UNKNOWN if model.goodput is None else f"{100 * model.goodput.share:.0f} %",
            *_pair(model.ttft_ms),
            *_pair(model.tpot_ms),
            *_pair(model.e2e_ms),
            number(model.total_tokens_per_s),
            number(model.total_bytes_per_s),
            _UNKNOWN if live_bytes is None else human_bytes(live_bytes),
        )
    return table


def _agreement(models: Sequence[ModelSummary]) -> Table:
    """Client and service side by side: medians, and the median of the differences."""
    table = Table(caption="ms, p50; TTFT from the sending; difference = client - service")
    table.add_column("model", overflow="fold")
    for heading in (
        "TTFT client", "service", "difference", "TPOT client", "service", "difference", "joined",
    ):  # fmt: skip
        table.add_column(heading, justify="right")
    for model in models:
        found = model.agreement
        table.add_row(
            model.model,
            ranked(model.ttft_from_sent_ms.p50),
            number(found.server_ttft_ms.p50),
            number(found.ttft_difference_ms.p50),
            ranked(model.tpot_ms.p50, digits=3),
            number(found.server_tpot_ms.p50, digits=3),
            number(found.tpot_difference_ms.p50, digits=3),
            str(found.joined),
        )
    return table


def _notes(summary: RunSummary) -> list[Text]:
    lag, loop = summary.client.send_lag_ms, summary.client.loop_lag_ms
    notes = [
        Text(
            f"send lag p50 {number(lag.p50)} ms, p95 {number(lag.p95)} ms, max {number(lag.max)} "
            f"ms; loop lag p95 {number(loop.p95)} ms, max {number(loop.max)} ms; client CPU "
            f"{number(summary.client.cpu_percent)} %, of it the measuring process "
            f"{number(summary.client.wire_cpu_percent)} %"
        )
    ]
    for model in summary.models:
        if model.ttft_ms.censored:
            notes.append(
                Text(f"{model.model}: {model.ttft_ms.censored} censored of {model.requests}")
            )
        if model.cold:
            notes.append(Text(f"{model.model}: {model.cold} cold, excluded from all times"))
        if model.unverified:
            notes.append(Text(f"{model.model}: failed its conformance probe", style="yellow"))
    for reason, count in summary.warmup_errors.items():
        notes.append(Text(f"warm-up: {count} x {reason}", style="red"))
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
        return Text("records: not available", style="yellow")
    if reconciliation.complete:
        return Text(f"records: all {reconciliation.checked} requests match")
    lines = [
        f"{kind}: {one}"
        for kind in ("missing", "duplicated", "differing", "extra")
        for one in getattr(reconciliation, kind)
    ]
    return Text("records DO NOT MATCH\n" + "\n".join(lines), style="bold red")


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
    """A console wide enough for the tables where no terminal limits it."""
    console = Console()
    return console if console.is_terminal else Console(width=132)


def number(value: float | None, *, digits: int | None = None) -> str:
    """Three significant digits, or *digits* after the point; unknown is a dash."""
    if value is None:
        return _UNKNOWN
    magnitude = abs(value)
    if digits is None:
        digits = 0 if magnitude >= 100 else 1 if magnitude >= 10 else 2  # noqa: PLR2004 - digits
    return f"{value:,.{digits}f}"


def ranked(value: Ranked, *, digits: int | None = None) -> str:
    """A number, or the word for a request without a whole answer."""
    return "censored" if value == "censored" else number(value, digits=digits)


def _pair(found: CensoredQuantiles) -> tuple[str, str]:
    return ranked(found.p50), ranked(found.p95)
