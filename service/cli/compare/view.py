"""Terminal view of `triptych compare`: answers in columns, then a table of costs."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from service.core.sizes import human_bytes, human_flops

#: One colour an arm, safe for colour-blind readers (Okabe and Ito 2008).
COLOURS = ("#56b4e9", "#e69f00", "#009e73", "#cc79a7", "#f0e442", "#0072b2", "#d55e00", "#999999")


class Arm:
    """Column of one model while its answer arrives."""

    def __init__(self, model: str) -> None:
        self.model = model
        self.state = "waiting"
        self.text = ""
        self.tokens = 0

    def __repr__(self) -> str:
        return f"<Arm {self.model} {self.state} tokens={self.tokens}>"

    def start(self) -> None:
        """Mark its prefill as begun."""
        self.state = "prefilling"

    def extend(self, text: str, tokens: int) -> None:
        """Append new text."""
        self.state = "answering"
        self.text += text
        self.tokens += tokens

    def finish(self, result: dict[str, Any]) -> None:
        """Take the complete answer, or the error."""
        if result["error"]:
            self.state = "failed"
            self.text = result["error"]["message"]
            return
        self.state = "done"
        self.text = result["text"]
        self.tokens = result["metrics"]["completion_tokens"]


class Row(NamedTuple):
    """Table row: a metric and its format."""

    label: str
    value: Callable[[dict[str, Any]], float | None]
    show: Callable[[float], str]
    difference: str | None
    """Field of `difference` whose ratio to the first arm is shown beside the value."""


def _state(kind: str) -> Callable[[dict[str, Any]], float | None]:
    return lambda metrics: metrics["state"][kind]


def _work(kind: str) -> Callable[[dict[str, Any]], float | None]:
    return lambda metrics: metrics["work"][kind]


def _energy(*sources: str) -> Callable[[dict[str, Any]], float | None]:
    """Microjoules by a counter of these kinds, so that an estimate has a row of its own."""

    def of(metrics: dict[str, Any]) -> float | None:
        energy = metrics["energy"]
        return energy["energy_uj"] if energy["energy_source"] in sources else None

    return of


def _joules(microjoules: float) -> str:
    return f"{microjoules / 1e6:,.3g} J"


def _metric(name: str) -> Callable[[dict[str, Any]], float | None]:
    return lambda metrics: metrics[name]


def _ms(value: float) -> str:
    return f"{value:,.1f} ms"


def _count(value: float) -> str:
    return f"{value:,.0f}"


ROWS = (
    Row("TTFT", _metric("ttft_ms"), _ms, "ttft_ms"),
    Row("TPOT", _metric("tpot_ms"), _ms, "tpot_ms"),
    Row("end to end", _metric("e2e_ms"), _ms, "e2e_ms"),
    Row("tokens/s", _metric("tokens_per_s"), _count, "tokens_per_s"),
    Row("bytes/s", _metric("bytes_per_s"), _count, "bytes_per_s"),
    Row("prompt tokens", _metric("prompt_tokens"), _count, None),
    Row("answer tokens", _metric("completion_tokens"), _count, None),
    Row("attention KV", _state("attention_kv_bytes"), human_bytes, None),
    Row("window KV", _state("window_kv_bytes"), human_bytes, None),
    Row("SSM state", _state("ssm_state_bytes"), human_bytes, None),
    Row("conv state", _state("conv_state_bytes"), human_bytes, None),
    Row("prefill work", _work("prefill_flops"), human_flops, "prefill_flops"),
    Row("decode work", _work("decode_flops"), human_flops, "decode_flops"),
    Row("weights read", _work("weight_bytes_read"), human_bytes, "weight_bytes_read"),
    Row("state read", _work("state_bytes_read"), human_bytes, "state_bytes_read"),
    Row("state written", _work("state_bytes_written"), human_bytes, "state_bytes_written"),
    Row("energy", _energy("rapl", "nvml"), _joules, "energy_uj"),
    Row("energy, estimated", _energy("estimate"), _joules, "energy_uj"),
    Row("slot reserves", _state("reserved_bytes"), human_bytes, "reserved_bytes"),
)


#: Cells without information; rows of nothing else are left out.
NOTHING = ("–", "0 B", "0 FLOP")


def columns(arms: Sequence[Arm]) -> RenderableType:
    """Lay the answers out side by side."""
    grid = Table.grid(expand=True, padding=(0, 1))
    for _ in arms:
        grid.add_column(ratio=1)
    grid.add_row(*(_panel(arm, colour) for arm, colour in zip(arms, COLOURS, strict=False)))
    return grid


def _panel(arm: Arm, colour: str) -> Panel:
    tokens = f" · {arm.tokens} tokens" if arm.tokens else ""
    style = "red" if arm.state == "failed" else ""
    return Panel(
        Text(arm.text or " ", style=style),
        title=Text(arm.model, style=f"bold {colour}"),
        subtitle=Text(f"{arm.state}{tokens}", style="dim"),
        border_style=colour,
    )


def summary(comparison: dict[str, Any]) -> RenderableType:
    """Tabulate costs and ratios to the first arm; list order and caveats below."""
    table = Table(title=f"measured {comparison['mode']}", title_justify="left", box=None)
    table.add_column("")
    for arm, colour in zip(comparison["arms"], COLOURS, strict=False):
        table.add_column(Text(arm["model"], style=f"bold {colour}"), justify="right")
    for row in ROWS:
        cells = [_cell(row, arm) for arm in comparison["arms"]]
        if any(cell not in NOTHING for cell in cells):
            table.add_row(row.label, *cells)
    order = ", ".join(comparison["arms"][arm]["model"] for arm in comparison["order"])
    notes = [Text(f"Order: {order}.", style="dim")]
    notes += [Text(f"Note: {caveat}.", style="dim") for caveat in comparison["caveats"]]
    return Group(table, *notes)


def _cell(row: Row, arm: dict[str, Any]) -> str:
    value = row.value(arm["metrics"]) if arm["metrics"] else None
    if value is None:
        return "–"
    shown = row.show(value)
    differences = arm["difference"] if row.difference else None
    ratio = differences[row.difference]["ratio"] if differences else None
    return f"{shown} ({ratio:.2f}×)" if ratio is not None else shown
