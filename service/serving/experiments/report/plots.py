"""Parts of Plotly figures that all figures share: colours, axes, labels."""

import html
from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from service.core.experiments.report import Report, ValueWithInterval

Json = dict[str, Any]

#: M. Okabe, K. Ito, "Color Universal Design": told apart with any colour vision.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000", "#8c6d00")
SYMBOLS = (
    "circle",
    "square",
    "diamond",
    "triangle-up",
    "cross",
    "x",
    "star",
    "triangle-down",
)
GREY = "#8a8a8a"
BAND = "rgba(120, 120, 120, 0.15)"


class Figure(Struct, frozen=True, kw_only=True):
    """A figure of a section: Plotly's data and layout, and what it shows in words."""

    section: str
    title: str
    caption: str
    data: list[Json]
    layout: Json


def label(text: str) -> str:
    """Return text that Plotly shows as it is: it reads a few tags of HTML."""
    return html.escape(text, quote=False)


def marks(report: Report, arm: str) -> tuple[str, str, str]:
    """Return an arm's label with its letter, its colour and its symbol."""
    index = next(place for place, each in enumerate(report.arms) if each.name == arm)
    name = f"{report.arms[index].letter}: {arm}"
    return label(name), COLOURS[index % len(COLOURS)], SYMBOLS[index % len(SYMBOLS)]


def layout(x: str, y: str, **more: object) -> Json:
    """Return a layout with titled axes."""
    base: Json = {
        "margin": {"l": 70, "r": 20, "t": 20, "b": 55},
        "height": 380,
        "font": {"family": "system-ui, sans-serif", "size": 13},
        "plot_bgcolor": "#fff",
        "paper_bgcolor": "#fff",
        "xaxis": {"title": {"text": x}, "gridcolor": "#e5e5e5", "zeroline": False},
        "yaxis": {"title": {"text": y}, "gridcolor": "#e5e5e5", "zeroline": False},
        "legend": {"orientation": "h", "y": 1.08, "yanchor": "bottom", "x": 0},
        "hovermode": "closest",
    }
    # Just above the axes, however high the figure is.
    base["legend"]["y"] = 1 + 10 / (float(str(more.get("height", 380))) - 75)
    for key, value in more.items():
        base[key] = {**base[key], **value} if isinstance(value, dict) and key in base else value
    return base


def error_bars(estimates: Sequence[ValueWithInterval], colour: str) -> Json:
    """Return asymmetric error bars; none where there is no interval."""
    return {
        "type": "data",
        "symmetric": False,
        "array": [0 if each.high is None else each.high - each.value for each in estimates],
        "arrayminus": [0 if each.low is None else each.value - each.low for each in estimates],
        "color": colour,
        "thickness": 1.2,
        "width": 4,
    }


def band(x: Sequence[float], low: Sequence[float], high: Sequence[float], colour: str) -> Json:
    """Return a filled band between two curves."""
    red, green, blue = (int(colour[place : place + 2], 16) for place in (1, 3, 5))
    return {
        "type": "scatter",
        "mode": "lines",
        "x": [*x, *reversed(x)],
        "y": [*high, *reversed(low)],
        "fill": "toself",
        "fillcolor": f"rgba({red}, {green}, {blue}, 0.15)",
        "line": {"width": 0},
        "hoverinfo": "skip",
        "showlegend": False,
    }
