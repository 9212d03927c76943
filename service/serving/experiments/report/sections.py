"""Sections of a report as sentences and tables, which all renderers share."""

from collections.abc import Iterator

from msgspec import Struct

from service.core.experiments.metric import metric_named
from service.core.experiments.report import CurveFit, Report, ValueWithInterval
from service.serving.experiments.report.sentences import (
    amount,
    crossover_sentence,
    ratio,
    verdict_sentence,
)


class Table(Struct, frozen=True, kw_only=True):
    """A table of text."""

    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


class Section(Struct, frozen=True, kw_only=True):
    """A part of a report."""

    key: str
    title: str
    note: str | None = None
    sentences: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()


def sections(report: Report) -> list[Section]:
    """Return the parts that have something to say, answers first."""
    found = [
        _answer(report),
        _checks(report),
        _crossovers(report),
        _curves(report),
        _tails(report),
        _probes(report),
        _turns(report),
        _pareto(report),
        _prompts(report),
    ]
    return [each for each in found if each.sentences or each.tables or each.note]


def _answer(report: Report) -> Section:
    sentences = tuple(
        f"{metric_named(each.metric).title}, {each.arms[0]} and {each.arms[1]}: "
        + verdict_sentence(each)
        for each in report.verdicts
    )
    note = None if sentences else "No two arms were compared."
    return Section(key="answer", title="Answer", note=note, sentences=sentences)


def _checks(report: Report) -> Section:
    arms = Table(
        caption="Arms",
        header=("", "arm", "done", "failed", "cold", "kernel path", "sampling"),
        rows=tuple(
            (
                arm.letter,
                arm.name,
                str(arm.done),
                str(arm.failed),
                str(arm.cold),
                ", ".join(arm.kernel_paths) or "unknown",
                ", ".join(f"{key} = {value}" for key, value in arm.sampling.items()) or "defaults",
            )
            for arm in report.arms
        ),
    )
    sentences = tuple(f"{each.about}: {each.reason}." for each in report.not_said)
    return Section(
        key="checks",
        title="What could not be said",
        note=None if sentences else "Nothing was left out.",
        sentences=sentences,
        tables=(arms,),
    )


def _crossovers(report: Report) -> Section:
    return Section(
        key="crossovers",
        title="Crossovers",
        sentences=tuple(crossover_sentence(each) for each in report.crossovers),
        tables=tuple(_ratios(report)),
    )


def _ratios(report: Report) -> Iterator[Table]:
    for metric in dict.fromkeys(each.metric for each in report.context_ratios):
        found = [each for each in report.context_ratios if each.metric == metric]
        contexts = sorted({each.context_tokens for each in found})
        by_pair = {
            arms: {each.context_tokens: each.ratio for each in found if each.arms == arms}
            for arms in dict.fromkeys(each.arms for each in found)
        }
        yield Table(
            caption=f"{metric_named(metric).heading} at each context: second arm over first",
            header=("arms", *(f"{context:,} tokens" for context in contexts)),
            rows=tuple(
                (f"{arms[1]} / {arms[0]}", *(_ratio(ratios.get(context)) for context in contexts))
                for arms, ratios in by_pair.items()
            ),
        )


def _ratio(found: ValueWithInterval | None) -> str:
    if found is None:
        return ""
    if found.low is None or found.high is None:
        return f"{ratio(found.value)}, n\u00a0=\u00a0{found.n}"
    return (
        f"{ratio(found.value)} [{ratio(found.low)}, {ratio(found.high)}], n\u00a0=\u00a0{found.n}"
    )


def _curves(report: Report) -> Section:
    tables = []
    for metric in dict.fromkeys(curve.metric for curve in report.curves):
        described = metric_named(metric)
        curves = [curve for curve in report.curves if curve.metric == metric]
        predicted = any(curve.predicted for curve in curves)
        rows = tuple(
            (
                curve.arm,
                f"{point.context_tokens:,}",
                amount(point.median, metric),
                _range(point.low, point.high, metric),
                *([amount(dict(curve.predicted).get(point.context_tokens), metric)] * predicted),
                str(point.n),
            )
            for curve in curves
            for point in curve.points
        )
        tables.append(
            Table(
                caption=f"{described.heading} by context: medians with intervals of 95 %",
                header=("arm", "tokens", "median", "interval", *["predicted"] * predicted, "n"),
                rows=rows,
            )
        )
        fitted = [(curve.arm, curve.fit) for curve in curves if curve.fit is not None]
        if fitted:
            tables.append(
                Table(
                    caption=f"{described.heading} as a curve over L tokens ({described.unit})",
                    header=("arm", "fit", "R²", "valid for"),
                    rows=tuple(
                        (
                            arm,
                            formula(fit),
                            "none (constant)" if fit.r_squared is None else f"{fit.r_squared:.4f}",
                            f"{fit.low_tokens:,} to {fit.high_tokens:,} tokens",
                        )
                        for arm, fit in fitted
                    ),
                )
            )
    return Section(key="curves", title="Against context", tables=tuple(tables))


def formula(fit: CurveFit) -> str:
    """Return a fit as `a + b·L + c·L²` with the intervals of its coefficients."""
    terms = []
    for power, value in enumerate(fit.coefficients):
        low, high = fit.lows[power], fit.highs[power]
        interval = "" if low is None or high is None else f" [{low:.4g}, {high:.4g}]"
        terms.append(f"{value:.4g}{interval}" + ("", "·L", "·L²")[power])
    return " + ".join(terms)


def _tails(report: Report) -> Section:
    rows = tuple(
        (
            each.arm,
            metric_named(each.metric).title,
            *(_percentile(found, each.metric) for found in each.percentiles.values()),
            str(len(each.values)),
        )
        for each in report.distributions
    )
    header = ("arm", "metric", "p50", "p95", "p99", "n")
    tables = (Table(caption="Percentiles over all contexts", header=header, rows=rows),)
    return Section(key="tails", title="Tails", tables=tables if rows else ())


def _percentile(found: ValueWithInterval | None, metric: str) -> str:
    if found is None:
        return "too few"
    return f"{amount(found.value, metric)} {_range(found.low, found.high, metric)}"


def _probes(report: Report) -> Section:
    tables = tuple(
        Table(
            caption=f"{metric_named(probe).heading}, with Wilson intervals of 95 %",
            header=("arm", "level", "right", "interval", "n"),
            rows=tuple(
                (
                    each.arm,
                    "" if each.level is None else str(each.level),
                    amount(each.share.value, probe),
                    _range(each.share.low, each.share.high, probe),
                    str(each.share.n),
                )
                for each in report.accuracies
                if each.probe == probe
            ),
        )
        for probe in dict.fromkeys(each.probe for each in report.accuracies)
    )
    return Section(key="probes", title="Probes", tables=tables)


def _turns(report: Report) -> Section:
    rows = tuple(
        (
            each.arm,
            str(each.turn),
            _TURN_TITLES.get(each.metric, each.metric),
            amount(each.median.value, each.metric),
            _range(each.median.low, each.median.high, each.metric),
            str(each.median.n),
        )
        for each in report.turns
    )
    header = ("arm", "turn", "metric", "median", "interval", "n")
    tables = (Table(caption="Conversations, by turn", header=header, rows=rows),)
    return Section(key="turns", title="Turns of a conversation", tables=tables if rows else ())


_TURN_TITLES = {"ttft_ms": "TTFT", "memory_bytes": "memory", "cached_tokens": "reused tokens"}


def _pareto(report: Report) -> Section:
    if len(report.arms) < 2 or not report.pareto_metrics:  # noqa: PLR2004 (two of them)
        return Section(key="pareto", title="Who is dominated")
    judged = ", ".join(metric_named(metric).title for metric in report.pareto_metrics)
    return Section(
        key="pareto",
        title="Who is dominated",
        note=f"Judged by {judged}. Uncertain domination is none.",
        sentences=tuple(_domination(report)),
        tables=(
            Table(
                caption="Medians over all prompts",
                header=("arm", "metric", "value", "interval", "n"),
                rows=tuple(
                    (
                        each.arm,
                        metric_named(each.metric).title,
                        amount(each.median.value, each.metric),
                        _range(each.median.low, each.median.high, each.metric),
                        str(each.median.n),
                    )
                    for each in report.levels
                ),
            ),
        ),
    )


def _domination(report: Report) -> Iterator[str]:
    dominated = [each for each in report.pareto if each.dominated_by]
    for each in dominated:
        yield f"{each.arm} is dominated by {' and '.join(each.dominated_by)}."
    if not dominated:
        yield "No arm is certainly dominated by another."


def _prompts(report: Report) -> Section:
    rows = tuple(
        (
            metric_named(each.metric).title,
            each.prompt_id if each.text is None else f"{each.prompt_id}: {_excerpt(each.text)}",
            "" if each.context_tokens is None else f"{each.context_tokens:,}",
            f"{each.arms[0]}: {amount(each.a, each.metric)}",
            f"{each.arms[1]}: {amount(each.b, each.metric)}",
            ratio(each.ratio),
        )
        for each in report.differing_prompts
    )
    header = ("metric", "prompt", "tokens", "first", "second", "ratio")
    tables = (
        Table(caption="Largest ratios of each two arms, by metric", header=header, rows=rows),
    )
    return Section(key="prompts", title="Prompts that differ most", tables=tables if rows else ())


def _excerpt(text: str, characters: int = 160) -> str:
    line = " ".join(text.split())
    return line if len(line) <= characters else line[: characters - 1] + "…"


def _range(low: float | None, high: float | None, metric: str) -> str:
    if low is None or high is None:
        return "none"
    return f"[{amount(low, metric)}, {amount(high, metric)}]"
