"""Sentences of verdicts and crossovers, in one grammar."""

import math

from service.core.experiments.metric import metric_named
from service.core.experiments.report import ReportCrossover
from service.core.sizes import human_bytes
from service.core.statistics.verdict import Verdict


def verdict_sentence(verdict: Verdict) -> str:
    """Return what a verdict says, and no more than that."""
    said = {
        "resolved": _resolved,
        "equivalent": _equivalent,
        "unresolved": _unresolved,
        "not_tested": _not_tested,
    }[verdict.kind](verdict)
    noted = verdict.reason and verdict.kind in ("resolved", "equivalent")
    return f"{said} ({verdict.reason})" if noted else said


def _not_tested(verdict: Verdict) -> str:
    return f"Cannot say: {verdict.reason or 'unknown'}"


def _resolved(verdict: Verdict) -> str:
    a, b = verdict.arms
    title = metric_named(verdict.metric).title
    pairs = f"range of {verdict.n} prompts" if verdict.exact else f"95 %, {verdict.n} pairs"
    holm = f", Holm over {verdict.holm}" if verdict.holm > 1 else ""
    if verdict.ratio is not None:
        return (
            f"{b}'s {title} is {ratio(verdict.ratio)}× {a}'s {_interval(verdict)}, {pairs}{holm}."
        )
    points = abs(verdict.difference or 0) * 100
    way = "above" if (verdict.difference or 0) > 0 else "below"
    return f"{b}'s {title} is {points:.1f} points {way} {a}'s {_interval(verdict)}, {pairs}{holm}."


def _equivalent(verdict: Verdict) -> str:
    if verdict.ratio is not None:
        return f"Same within ±{percent(verdict.margin)}: {_value(verdict)} {_interval(verdict)}."
    margin = f"{verdict.margin * 100:g}"
    return f"Same within ±{margin} points: {_value(verdict)} {_interval(verdict)}."


def _unresolved(verdict: Verdict) -> str:
    return (
        f"Cannot rank: {_value(verdict)} {_interval(verdict)} allows {_allowed(verdict)}; "
        f"{verdict.reason}."
    )


def _allowed(verdict: Verdict) -> str:
    metric = metric_named(verdict.metric)
    if verdict.low is None or verdict.high is None:
        return "anything"
    center = 1.0 if verdict.ratio is not None else 0.0
    low, high = verdict.low - center, verdict.high - center
    shown = percent if verdict.ratio is not None else _points
    if low < 0 < high:
        return f"{shown(-low)} {metric.less} or {shown(high)} {metric.more}"
    word = metric.less if high <= 0 else metric.more
    return f"{shown(min(abs(low), abs(high)))} to {shown(max(abs(low), abs(high)))} {word}"


def _value(verdict: Verdict) -> str:
    if verdict.ratio is not None:
        return ratio(verdict.ratio)
    return f"{(verdict.difference or 0) * 100:+.1f} points"


def _interval(verdict: Verdict) -> str:
    if verdict.low is None or verdict.high is None:
        return "[no interval]"
    if verdict.ratio is not None:
        return f"[{ratio(verdict.low)}, {ratio(verdict.high)}]"
    return f"[{verdict.low * 100:+.1f}, {verdict.high * 100:+.1f}]"


def ratio(value: float) -> str:
    """Return a ratio with two decimals, a small one with two digits."""
    return f"{value:.2f}" if value >= 0.1 else f"{value:.2g}"  # noqa: PLR2004 (digits)


def percent(share: float) -> str:
    """Return a share in percent, as exact as it is small."""
    value = share * 100
    return f"{value:.0f} %" if value >= 1 or value == 0 else f"{value:.1g} %"


def _points(share: float) -> str:
    return f"{share * 100:.1f} points"


def crossover_sentence(crossing: ReportCrossover) -> str:
    """Return where two curves cross, or why there is no such context."""
    title = metric_named(crossing.metric).title
    first, second = crossing.arms
    if crossing.context_tokens is None:
        if crossing.lower_before is None:
            return f"{title}, {first} and {second}: cannot say where they cross: {crossing.reason}."
        lower = f"{crossing.reason}; {crossing.lower_before} is lower"
        return f"{title}, {first} and {second}: no crossover ({lower})."
    low = "…" if crossing.low is None else f"{crossing.low:,.0f}"
    high = "…" if crossing.high is None else f"{crossing.high:,.0f}"
    after = second if crossing.lower_before == first else first
    note = f" ({crossing.reason})" if crossing.reason else ""
    return (
        f"{title}: {after} is lower than {crossing.lower_before} from "
        f"{crossing.context_tokens:,.0f} tokens on [{low}, {high}], 95 %{note}."
    )


def amount(value: float | None, metric: str) -> str:
    """Return a value in its unit; `unknown` for None."""
    if value is None or not math.isfinite(value):
        return "unknown"
    if metric == "memory_bytes":
        return human_bytes(value)
    described = metric_named(metric)
    if metric == "cached_tokens":
        return f"{value:,.0f} tokens"
    if described.is_share:
        return f"{value * 100:.1f} %"
    return f"{value:.4g} {described.unit}"
