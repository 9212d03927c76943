"""The memory report as a chart: state of one sequence against context, both logarithmic."""

import html
import io
import math
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from model_registry.spec import Family
from service.cli.models.context_lengths import human_tokens
from service.cli.models.memory_table import MemoryReport, SizedModel
from service.core.sizes import human_bytes

#: Told apart also by those who see few colours (Okabe and Ito 2008); yellow is too pale on white.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000", "#999999")
MARKERS: dict[Family, str] = {"transformer": "o", "ssm": "s", "hybrid": "^"}
_POINTS = 97
_INK = "#222222"
_LEGEND = "circle: transformer, square: SSM, triangle: hybrid; dashed: beyond the model's context"
_LABEL_GAP = 0.034
"""Least distance of two labels, as a part of the chart's height."""


def draw(report: MemoryReport, file: Path) -> None:
    """Write the chart as PNG or as one HTML page that needs nothing else. Raises OSError."""
    figure = chart(report)
    if file.suffix.lower() == ".png":
        figure.savefig(file, dpi=150)
        return
    drawing = io.StringIO()
    figure.savefig(drawing, format="svg")
    file.write_text(page(report, drawing.getvalue()), encoding="utf-8")


def chart(report: MemoryReport) -> Figure:
    """One line per model, labelled at its end; dashed beyond the model's context length."""
    figure = Figure(figsize=(11, 6.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    first, last = report.context_tokens[0], report.context_tokens[-1]
    last = max(last, 2 * first)
    lengths = sorted(
        {round(first * (last / first) ** (step / (_POINTS - 1))) for step in range(_POINTS)}
    )
    for index, model in enumerate(report.models):
        _line(axes, model, lengths, report.context_tokens, COLOURS[index % len(COLOURS)])
    _frame(axes, report, first, last)
    _labels(axes, report, last)
    return figure


def _line(
    axes: Axes, model: SizedModel, lengths: list[int], marked: tuple[int, ...], colour: str
) -> None:
    within = [length for length in lengths if length <= model.limit_tokens]
    beyond = [length for length in lengths if length >= (within[-1] if within else 0)]
    for part, style in ((within, "-"), (beyond, (0, (2, 2)))):
        states = [model.at(length).state_bytes for length in part]
        axes.plot(part, states, linestyle=style, color=colour, linewidth=2)
    axes.plot(
        marked,
        [model.at(length).state_bytes for length in marked],
        linestyle="none",
        marker=MARKERS[model.family],
        markersize=6,
        color=colour,
        clip_on=False,
        zorder=3,
    )


def _frame(axes: Axes, report: MemoryReport, first: int, last: int) -> None:
    axes.set_xlim(first * 0.93, last)
    low, high = axes.get_ylim()
    # At least two octaves, so that there are lines to read the height from.
    axes.set_ylim(2 ** math.floor(math.log2(low)), 2 ** math.ceil(math.log2(max(high, 2 * low))))
    axes.xaxis.set_major_locator(FixedLocator([*report.context_tokens]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: human_tokens(round(value))))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_locator(LogLocator(base=2, numticks=12))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: human_bytes(value)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.grid(color="#dddddd", linewidth=0.7)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("context (tokens)")
    axes.set_ylabel("state of one sequence")
    axes.set_title("Memory that one sequence adds to the weights", loc="left", pad=26)
    axes.text(0, 1.02, _LEGEND, transform=axes.transAxes, fontsize=9, color=_INK)


def _labels(axes: Axes, report: MemoryReport, last: int) -> None:
    """Name each line at its right end, moved apart where lines end close together."""
    low, high = (math.log2(limit) for limit in axes.get_ylim())
    ends = []
    for index, model in enumerate(report.models):
        state_bytes = model.at(last).state_bytes
        height = (math.log2(max(state_bytes, 1)) - low) / (high - low)
        ends.append((height, COLOURS[index % len(COLOURS)], model))
    for height, (end, colour, model) in zip(
        spread([end[0] for end in ends], _LABEL_GAP), ends, strict=True
    ):
        weights = human_bytes(model.at(1).weights_bytes)
        axes.plot(
            (1.008, 1.022), (end, height), color=colour, transform=axes.transAxes, clip_on=False
        )
        axes.text(
            1.028,
            height,
            f"{model.name}{model.mark}  ({weights} weights)",
            transform=axes.transAxes,
            color=_INK,
            fontsize=9,
            va="center",
        )


def spread(heights: list[float], gap: float) -> list[float]:
    """Heights moved apart to at least `gap`, in the same order, each as little as is needed.

    Neighbours that are too close form a group, which is centred on the mean of its members.
    """
    order = sorted(range(len(heights)), key=lambda index: heights[index])
    groups: list[list[int]] = []
    for index in order:
        groups.append([index])
        while len(groups) > 1 and _bottom(groups[-1], heights, gap) < (
            _top(groups[-2], heights, gap) + gap
        ):
            upper = groups.pop()
            groups[-1] += upper
    placed = list(heights)
    for group in groups:
        bottom = _bottom(group, heights, gap)
        for rank, index in enumerate(group):
            placed[index] = bottom + rank * gap
    return placed


def _bottom(group: list[int], heights: list[float], gap: float) -> float:
    return sum(heights[index] for index in group) / len(group) - gap * (len(group) - 1) / 2


def _top(group: list[int], heights: list[float], gap: float) -> float:
    return _bottom(group, heights, gap) + gap * (len(group) - 1)


def page(report: MemoryReport, svg: str) -> str:
    """HTML page with the chart inline and the numbers below it."""
    drawing = svg[svg.index("<svg") :]
    rows = report.to_json()["rows"]
    columns = list(rows[0])
    head = "".join(f"<th>{html.escape(name)}</th>" for name in columns)
    body = "\n".join(
        "<tr>" + "".join(f"<td>{_cell(row[name])}</td>" for name in columns) + "</tr>"
        for row in rows
    )
    notes = "".join(f"<p>{html.escape(note)}</p>" for note in report.notes())
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Predicted memory</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem;
       color: #222; background: #fff }}
svg {{ width: 100%; height: auto }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums }}
th, td {{ padding: .2rem .8rem; border-bottom: 1px solid #ddd; text-align: right }}
th:first-child, td:first-child {{ text-align: left }}
</style>
<h1>Predicted memory</h1>
{drawing}
<table>
<thead><tr>{head}</tr></thead>
<tbody>
{body}
</tbody>
</table>
{notes}
</html>
"""


def _cell(value: int | str) -> str:
    return html.escape(value) if isinstance(value, str) else f"{value:,}"
