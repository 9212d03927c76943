"""Figures of arms against context, turn and level, their tails and their drift."""

from collections.abc import Iterator

from service.core.experiments.metric import metric_named
from service.core.experiments.report import Curve, Report, ReportCrossover, ValueWithInterval
from service.serving.experiments.report.plots import (
    BAND,
    GREY,
    Figure,
    Json,
    band,
    error_bars,
    layout,
    marks,
)

_FIT_POINTS = 60


def figures(report: Report) -> list[Figure]:
    """Return the figures that the report has numbers for."""
    return [
        *_curves(report),
        *_tails(report),
        *_probes(report),
        *_turns(report),
        *_drift(report),
    ]


def _curves(report: Report) -> Iterator[Figure]:
    for metric in dict.fromkeys(curve.metric for curve in report.curves):
        curves = [curve for curve in report.curves if curve.metric == metric]
        crossings = [
            each
            for each in report.crossovers
            if each.metric == metric and each.context_tokens is not None
        ]
        described = metric_named(metric)
        first = crossings[0] if crossings else None
        title = f"{described.heading} against context"
        if first is not None and first.context_tokens is not None:
            title += f": {first.arms[0]} and {first.arms[1]} cross at "
            title += f"{first.context_tokens:,.0f} tokens"
        yield Figure(
            section="curves",
            title=title,
            caption=f"Medians with intervals of 95 %, single values faint, fits as lines"
            f"{', predictions as open diamonds' if any(c.predicted for c in curves) else ''}; "
            "crossovers with their intervals as grey bands. "
            f"{described.better.capitalize()} is better.",
            data=[trace for curve in curves for trace in _curve(report, curve)],
            layout=layout(
                "context, tokens",
                f"{described.title}, {described.unit}",
                shapes=[shape for each in crossings for shape in _crossing(each)],
                yaxis={"rangemode": "tozero"},
            ),
        )


def _curve(report: Report, curve: Curve) -> Iterator[Json]:
    name, colour, symbol = marks(report, curve.arm)
    yield {
        "type": "scatter",
        "mode": "markers",
        "x": [context for context, _ in curve.raw],
        "y": [value for _, value in curve.raw],
        "marker": {"color": colour, "symbol": symbol, "size": 4, "opacity": 0.25},
        "hoverinfo": "skip",
        "showlegend": False,
    }
    medians = [
        ValueWithInterval(value=point.median, low=point.low, high=point.high, n=point.n)
        for point in curve.points
    ]
    yield {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": [point.context_tokens for point in curve.points],
        "y": [point.median for point in curve.points],
        "error_y": error_bars(medians, colour),
        "marker": {"color": colour, "symbol": symbol, "size": 9},
        "text": [f"n = {point.n}" for point in curve.points],
    }
    if curve.fit is not None:
        step = (curve.fit.high_tokens - curve.fit.low_tokens) / _FIT_POINTS
        contexts = [curve.fit.low_tokens + step * place for place in range(_FIT_POINTS + 1)]
        yield {
            "type": "scatter",
            "mode": "lines",
            "x": contexts,
            "y": [curve.fit.at(context) for context in contexts],
            "line": {"color": colour, "width": 1.5},
            "hoverinfo": "skip",
            "showlegend": False,
        }
    if curve.predicted:
        yield {
            "type": "scatter",
            "mode": "markers",
            "name": f"{name}, predicted",
            "x": [context for context, _ in curve.predicted],
            "y": [value for _, value in curve.predicted],
            "marker": {"color": colour, "symbol": "diamond-open", "size": 12},
        }


def _crossing(crossing: ReportCrossover) -> Iterator[Json]:
    common = {"yref": "paper", "y0": 0, "y1": 1, "layer": "below"}
    if crossing.low is not None and crossing.high is not None:
        yield {
            **common,
            "type": "rect",
            "x0": crossing.low,
            "x1": crossing.high,
            "fillcolor": BAND,
            "line": {"width": 0},
        }
    yield {
        **common,
        "type": "line",
        "x0": crossing.context_tokens,
        "x1": crossing.context_tokens,
        "line": {"color": GREY, "width": 1, "dash": "dash"},
    }


def _tails(report: Report) -> Iterator[Figure]:
    for metric in dict.fromkeys(each.metric for each in report.distributions):
        described = metric_named(metric)
        data: list[Json] = []
        for each in report.distributions:
            if each.metric != metric:
                continue
            name, colour, symbol = marks(report, each.arm)
            n = len(each.values)
            data.append(
                {
                    "type": "scatter",
                    "mode": "lines",
                    "name": f"{name}, n = {n}",
                    "x": list(each.values),
                    "y": [(place + 1) / n for place in range(n)],
                    "line": {"color": colour, "shape": "hv", "width": 1.8},
                }
            )
            known = [(label, found) for label, found in each.percentiles.items() if found]
            estimates = [found for _, found in known]
            data.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "x": [found.value for found in estimates],
                    "y": [float(label[1:]) / 100 for label, _ in known],
                    "error_x": error_bars(estimates, colour),
                    "marker": {"color": colour, "symbol": symbol, "size": 9},
                    "text": [label for label, _ in known],
                    "showlegend": False,
                }
            )
        yield Figure(
            section="tails",
            title=f"Distribution of {described.title}",
            caption="Share of values up to each value, over all contexts. Marks: p50, p95 and p99 "
            "with intervals of 95 %, left out where n is too small.",
            data=data,
            layout=layout(
                f"{described.title}, {described.unit}",
                "share of values",
                yaxis={"range": [0, 1.02]},
            ),
        )


def _probes(report: Report) -> Iterator[Figure]:
    for probe in dict.fromkeys(each.probe for each in report.accuracies):
        data: list[Json] = []
        for arm in report.arms:
            found = [
                each
                for each in report.accuracies
                if each.probe == probe and each.arm == arm.name and each.level is not None
            ]
            if not found:
                continue
            name, colour, symbol = marks(report, arm.name)
            levels = [float(each.level or 0) for each in found]
            lows = [each.share.low or 0.0 for each in found]
            highs = [1.0 if each.share.high is None else each.share.high for each in found]
            data.append(band(levels, lows, highs, colour))
            data.append(_line(name, colour, symbol, levels, [each.share.value for each in found]))
        if data:
            yield Figure(
                section="probes",
                title=f"{metric_named(probe).heading} by level",
                caption="Share of right answers, with Wilson bands of 95 %. Higher is better.",
                data=data,
                layout=layout("level", "share right", yaxis={"range": [-0.02, 1.02]}),
            )


def _turns(report: Report) -> Iterator[Figure]:
    for metric, title, unit in (
        ("ttft_ms", "TTFT by turn", "TTFT, ms"),
        ("memory_bytes", "Memory by turn", "memory, bytes"),
    ):
        data: list[Json] = []
        for arm in report.arms:
            found = [
                each for each in report.turns if each.metric == metric and each.arm == arm.name
            ]
            if not found:
                continue
            name, colour, symbol = marks(report, arm.name)
            values = [each.median.value for each in found]
            line = _line(name, colour, symbol, [float(each.turn) for each in found], values)
            data.append({**line, "error_y": error_bars([each.median for each in found], colour)})
        if data:
            yield Figure(
                section="turns",
                title=title,
                caption="Medians over conversations, with intervals of 95 %. Lower is better.",
                data=data,
                layout=layout("turn", unit, xaxis={"dtick": 1}, yaxis={"rangemode": "tozero"}),
            )


def _drift(report: Report) -> Iterator[Figure]:
    for metric in dict.fromkeys(each.metric for each in report.residuals):
        data: list[Json] = []
        for arm in report.arms:
            found = [
                each for each in report.residuals if each.metric == metric and each.arm == arm.name
            ]
            if found:
                name, colour, symbol = marks(report, arm.name)
                data.append(
                    {
                        "type": "scatter",
                        "mode": "markers",
                        "name": name,
                        "x": [each.number for each in found],
                        "y": [each.ratio for each in found],
                        "marker": {"color": colour, "symbol": symbol, "size": 5, "opacity": 0.7},
                    }
                )
        yield Figure(
            section="drift",
            title=f"{metric_named(metric).heading} in the order of the run",
            caption="Each value over the median of its arm and context: a slope is drift.",
            data=data,
            layout=layout("trial", "value / median"),
        )


def _line(name: str, colour: str, symbol: str, x: list[float], y: list[float]) -> Json:
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": name,
        "x": x,
        "y": y,
        "line": {"color": colour, "width": 1.5},
        "marker": {"color": colour, "symbol": symbol, "size": 9},
    }
