"""Figures that compare arms: forest plots, Pareto, and prompt by prompt."""

import math
from collections.abc import Iterator, Sequence
from itertools import combinations

from service.core.experiments.metric import metric_named
from service.core.experiments.report import Report
from service.core.statistics.verdict import Kind, Verdict
from service.serving.experiments.report.plots import (
    BAND,
    COLOURS,
    GREY,
    Figure,
    Json,
    error_bars,
    label,
    layout,
    marks,
)

_KINDS: dict[Kind, tuple[str, str, str]] = {
    "resolved": ("resolved", COLOURS[0], "square"),
    "equivalent": ("same within the margin", COLOURS[2], "diamond"),
    "unresolved": ("cannot rank", GREY, "circle-open"),
}
#: Planes of a Pareto figure, at most.
_MOST_PLANES = 3
#: Ranges of ratios below which marks are even, and above which they are powers of ten.
_NARROW, _WIDE = 2, 100
#: Longer names of arms leave no room for intervals: their letters stand for them.
_LONGEST_NAME = 20


def comparison_figures(report: Report) -> list[Figure]:
    """Return the figures that the report has numbers for."""
    return [*_forests(report), *_pareto(report), *_prompts(report)]


def _forests(report: Report) -> Iterator[Figure]:
    tested = [each for each in report.verdicts if each.kind != "not_tested"]
    if not tested:
        return
    rows = _rows(report)
    resolved = sum(each.kind == "resolved" for each in tested)
    same = sum(each.kind == "equivalent" for each in tested)
    differences = [each for each in report.verdicts if each.difference is not None]
    ratios = [each for each in report.verdicts if each.difference is None]
    if any(each.kind != "not_tested" for each in ratios):
        yield Figure(
            section="answer",
            title=f"{resolved} of {len(tested)} comparisons resolved, {same} the same",
            caption="Ratios of the second arm to the first with intervals of 95 %, on a log scale; "
            f"shaded: within ±{report.margin:.0%} of 1. Hatched: no comparison, with its reason.",
            data=_forest(ratios, rows, 1.0),
            layout=_forest_layout(
                ratios, rows, 1.0, report.margin, "ratio, second arm / first arm (left of 1: lower)"
            ),
        )
    if differences:
        yield Figure(
            section="answer",
            title="Differences of accuracies",
            caption="The second arm's share of right answers minus the first's, with intervals of "
            "95 %; shaded: the margin.",
            data=_forest(differences, rows, 0.0),
            layout=_forest_layout(
                differences,
                rows,
                0.0,
                report.margin,
                "difference of shares (right of 0: second better)",
            ),
        )


Rows = dict[tuple[str, tuple[str, str]], str]


def _rows(report: Report) -> Rows:
    """Return the label of each comparison: by letters where names are long."""
    letters = {arm.name: arm.letter for arm in report.arms}
    long = max(len(name) for name in letters) > _LONGEST_NAME
    return {
        (each.metric, each.arms): label(
            f"{metric_named(each.metric).title}: "
            + " / ".join(letters[arm] if long else arm for arm in reversed(each.arms))
        )
        for each in report.verdicts
    }


def _span(verdicts: Sequence[Verdict], center: float) -> tuple[float, float]:
    values = [value for each in verdicts for value in (each.low, each.high) if value is not None]
    low, high = min([*values, center]), max([*values, center])
    if center:
        return low / 1.1, high * 1.1
    return low - 0.05, high + 0.05


def _forest(verdicts: Sequence[Verdict], rows: Rows, center: float) -> list[Json]:
    data: list[Json] = []
    for kind, (name, colour, symbol) in _KINDS.items():
        found = [each for each in verdicts if each.kind == kind]
        if not found:
            continue
        values = [(each.ratio if center else each.difference) or 0.0 for each in found]
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": name,
                "x": values,
                "y": [rows[each.metric, each.arms] for each in found],
                "error_x": {
                    **error_bars([], colour),
                    "array": [
                        0 if each.high is None else each.high - value
                        for each, value in zip(found, values, strict=True)
                    ],
                    "arrayminus": [
                        0 if each.low is None else value - each.low
                        for each, value in zip(found, values, strict=True)
                    ],
                },
                "marker": {"color": colour, "symbol": symbol, "size": 10},
                "text": [f"n = {each.n}" for each in found],
            }
        )
    refused = [each for each in verdicts if each.kind == "not_tested"]
    if refused:
        low, high = _span(verdicts, center)
        data.append(
            {
                "type": "bar",
                "orientation": "h",
                "name": "cannot say",
                "y": [rows[each.metric, each.arms] for each in refused],
                "base": [low] * len(refused),
                "x": [high - low] * len(refused),
                "width": 0.6,
                "marker": {
                    "color": "#f2f2f2",
                    "pattern": {"shape": "/", "fgcolor": "#c4c4c4", "size": 7},
                },
                "hoverinfo": "skip",
            }
        )
    return data


def _forest_layout(
    verdicts: Sequence[Verdict], rows: Rows, center: float, margin: float, title: str
) -> Json:
    low, high = _span(verdicts, center)
    inside = {"yref": "paper", "y0": 0, "y1": 1, "layer": "below"}
    edges = (1 - margin, 1 + margin) if center else (-margin, margin)
    refused = [each for each in verdicts if each.kind == "not_tested"]
    middle = math.sqrt(low * high) if center else (low + high) / 2
    return layout(
        title,
        "",
        height=120 + 34 * len(verdicts),
        xaxis={
            "type": "log",
            "range": [math.log10(low), math.log10(high)],
            "tickvals": _ticks(low, high),
            "ticktext": [f"{tick:g}" for tick in _ticks(low, high)],
        }
        if center
        else {"range": [low, high]},
        yaxis={
            "title": {"text": ""},
            "automargin": True,
            "categoryorder": "array",
            "categoryarray": [rows[each.metric, each.arms] for each in reversed(verdicts)],
        },
        shapes=[
            {
                **inside,
                "type": "rect",
                "x0": edges[0],
                "x1": edges[1],
                "fillcolor": BAND,
                "line": {"width": 0},
            },
            {**inside, "type": "line", "x0": center, "x1": center, "line": {"color": "#444"}},
        ],
        annotations=[
            {
                "x": math.log10(middle) if center else middle,
                "y": rows[each.metric, each.arms],
                "text": label(each.reason or "unknown"),
                "showarrow": False,
                "bgcolor": "rgba(255, 255, 255, 0.85)",
                "font": {"size": 12, "color": "#444"},
            }
            for each in refused
        ],
    )


def _ticks(low: float, high: float) -> list[float]:
    """Return ratios to be marked on a log axis: Plotly's own would be single digits."""
    span = high / low
    if span < _NARROW:
        step = 0.05 if span > 1.25 else 0.02  # noqa: PLR2004 (some ten marks)
        return [
            round(step * place, 2) for place in range(math.ceil(low / step), int(high / step) + 1)
        ]
    steps = (1, 1.5, 2, 3, 5, 7) if span < _WIDE else (1,)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found = [step * 10.0**power for power in powers for step in steps]
    return [tick for tick in found if low <= tick <= high]


def _pareto(report: Report) -> Iterator[Figure]:
    if len(report.arms) < 2:  # noqa: PLR2004 (two to be compared)
        return
    levels = {(each.metric, each.arm): each.median for each in report.levels}
    dominated = {each.arm for each in report.pareto if each.dominated_by}
    for x, y in list(combinations(report.pareto_metrics, 2))[:_MOST_PLANES]:
        data: list[Json] = []
        for arm in report.arms:
            across, up = levels.get((x, arm.name)), levels.get((y, arm.name))
            if across is None or up is None:
                continue
            name, colour, symbol = marks(report, arm.name)
            sure = across.low is not None and up.low is not None
            data.append(
                {
                    "type": "scatter",
                    "mode": "markers+text",
                    "name": name + (" (dominated)" if arm.name in dominated else ""),
                    "x": [across.value],
                    "y": [up.value],
                    "error_x": error_bars([across], colour),
                    "error_y": error_bars([up], colour),
                    "text": [arm.letter],
                    "textposition": "top right",
                    "marker": {
                        "color": colour,
                        "symbol": symbol if sure else f"{symbol}-open",
                        "size": 12,
                    },
                }
            )
        if data:
            first, second = metric_named(x), metric_named(y)
            yield Figure(
                section="pareto",
                title=f"{second.heading} against {first.title}",
                caption="Medians over all prompts with intervals of 95 %; hollow: no interval. "
                f"{first.title}: {first.better} is better; "
                f"{second.title}: {second.better} is better.",
                data=data,
                layout=layout(f"{first.title}, {first.unit}", f"{second.title}, {second.unit}"),
            )


def _prompts(report: Report) -> Iterator[Figure]:
    """Yield one scatter a metric and pair; pairs with the first arm only."""
    first = report.arms[0].name if report.arms else None
    pairs = [
        each
        for each in report.prompt_pairs
        if each.arms[0] == first and not metric_named(each.metric).is_share
    ]
    for metric in dict.fromkeys(each.metric for each in pairs):
        described = metric_named(metric)
        found = [each for each in pairs if each.metric == metric]
        data: list[Json] = []
        for arms in dict.fromkeys(each.arms for each in found):
            name, colour, symbol = marks(report, arms[1])
            of_arms = [each for each in found if each.arms == arms]
            data.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "name": f"{name}, n = {len(of_arms)}",
                    "x": [each.a for each in of_arms],
                    "y": [each.b for each in of_arms],
                    "text": [label(each.prompt_id) for each in of_arms],
                    "marker": {"color": colour, "symbol": symbol, "size": 6, "opacity": 0.7},
                }
            )
        values = [value for each in found for value in (each.a, each.b)]
        data.append(
            {
                "type": "scatter",
                "mode": "lines",
                "x": [min(values), max(values)],
                "y": [min(values), max(values)],
                "line": {"color": GREY, "dash": "dash", "width": 1},
                "name": "the same",
                "hoverinfo": "skip",
            }
        )
        yield Figure(
            section="prompts",
            title=f"{described.heading} prompt by prompt",
            caption=f"Below the diagonal the other arm is lower than {first}; "
            f"{described.better} is better.",
            data=data,
            layout=layout(
                f"{label(first or '')}, {described.unit}", f"other arm, {described.unit}"
            ),
        )
