"""Draws results beside the limits: tokens a second against streams, one panel a model.

    python benchmarks/engines/plot.py benchmarks/results/engines-cpu-2-cores.json docs/engines.svg

The line is what the machine allows (see `limits.py`): it rises while a step's bytes are the limit
and is level where its arithmetic is. The points are what the engines reached.
"""

import argparse
import json
from pathlib import Path
from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

#: Told apart also by those who see few colours (Okabe and Ito 2008), as in `service/cli`.
COLOURS: Final = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
MARKERS: Final = ("o", "s", "^", "D", "v", "P", "X")
LIMIT_STYLES: Final = {"bfloat16": "-", "int8": (0, (4, 2))}
INK: Final = "#222222"
LIMIT: Final = "#999999"
COLUMNS: Final = 2


def chart(document: dict[str, Any], context: int) -> Figure:
    """A panel for every model with limits at one context length."""
    models = list(document["limits"])
    engines = list(dict.fromkeys(result["engine"] for result in document["results"]))
    columns = min(COLUMNS, len(models))
    rows = -(-len(models) // columns)
    figure = Figure(figsize=(5.5 * columns, 0.8 + 3.6 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(rows, columns, squeeze=False)
    for axes, model in zip(panels.flat, models, strict=False):
        _panel(axes, document, model, context, engines)
    for axes in list(panels.flat)[len(models) :]:
        axes.set_axis_off()
    labels: dict[str, Any] = {}
    for axes in panels.flat:
        handles, names = axes.get_legend_handles_labels()
        labels |= dict(zip(names, handles, strict=True))
    figure.legend(
        labels.values(),
        labels,
        loc="outside upper center",
        ncols=min(4, len(labels)),
        frameon=False,
    )
    return figure


def _panel(
    axes: Axes, document: dict[str, Any], model: str, context: int, engines: list[str]
) -> None:
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    results = [result for result in document["results"] if result["model"] == model]
    limits = document["limits"][model]
    for kind in dict.fromkeys(result["weights"] for result in results):
        points = _at(limits["formats"][kind]["decode"], context)
        axes.plot(
            [point["streams"] for point in points],
            [point["tokens_per_s"] for point in points],
            color=LIMIT,
            linestyle=LIMIT_STYLES[kind],
            linewidth=2,
            label=f"limit, {kind} weights",
            zorder=1,
        )
    for result in results:
        index = engines.index(result["engine"])
        points = _at(result["decode"], context)
        if points:
            axes.plot(
                [point["streams"] for point in points],
                [point["tokens_per_s"] for point in points],
                color=COLOURS[index % len(COLOURS)],
                marker=MARKERS[index % len(MARKERS)],
                linewidth=1,
                markersize=6,
                label=result["engine"],
                zorder=3,
            )
    _frame(axes, model, limits, context)


def _frame(axes: Axes, model: str, limits: dict[str, Any], context: int) -> None:
    streams = [point["streams"] for point in _at(limits["formats"]["bfloat16"]["decode"], context)]
    axes.xaxis.set_major_locator(FixedLocator(streams))
    axes.yaxis.set_major_locator(LogLocator(base=2, numticks=12))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_locator(NullLocator())
    axes.grid(color="#dddddd", linewidth=0.7)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("streams")
    axes.set_ylabel("decode, tokens/s")
    parameters = limits["parameters"] / 1e6
    note = "; in the processor's cache" if limits["in_cache"] else ""
    axes.set_title(
        f"{model}, {parameters:.0f} million parameters, {context} tokens of context{note}",
        loc="left",
        fontsize=10,
        color=INK,
    )


def _at(points: list[dict[str, Any]], context: int) -> list[dict[str, Any]]:
    return [point for point in points if point["context_tokens"] == context]


def main() -> None:
    """Read results, write the chart."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", type=Path, help="a document that run.py wrote")
    parser.add_argument("chart", type=Path, help="SVG or PNG file")
    parser.add_argument("--context", type=int, default=64, metavar="TOKENS")
    options = parser.parse_args()
    document = json.loads(options.results.read_text())
    metadata = {"Date": None} if options.chart.suffix == ".svg" else None
    chart(document, options.context).savefig(options.chart, dpi=150, metadata=metadata)


if __name__ == "__main__":
    main()
