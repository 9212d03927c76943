"""Comparing arms: verdicts, ratios by context, crossovers and domination."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import cast

from msgspec import structs

from service.core.experiments.metric import Metric
from service.core.experiments.report import (
    ContextRatio,
    Dominated,
    ReportCrossover,
    ValueWithInterval,
)
from service.core.statistics import intervals, pareto
from service.core.statistics.crossover import crossover
from service.core.statistics.judging import judge
from service.core.statistics.paired import (
    Comparison,
    compare_ratios,
    compare_shares,
    refuse,
    too_few,
)
from service.core.statistics.verdict import NO_DIFFERENCE, Verdict
from service.serving.experiments.report.curves import CURVE_METRICS, samples
from service.serving.experiments.report.observations import Observations, PromptKey, value_of

#: Parts of other metrics: they would count twice in a domination.
_PARTS = ("prefill_ms", "later_turns_ttft_ms")


def verdicts(observations: Observations) -> list[Verdict]:
    """Compare every two arms by every metric, and judge all comparisons together."""
    comparisons = [
        _compare(observations, metric, a, b)
        for metric in observations.metrics
        for a, b in observations.pairs_of_arms
    ]
    return judge(comparisons, margin=observations.plan.margin)


def incomparable(observations: Observations, metric: Metric, a: int, b: int) -> str | None:
    """Return why two arms must not be compared, whatever their numbers; None if they may."""
    for arm in (a, b):
        if not observations.done(arm):
            return f"no trial of {observations.names[arm]} succeeded"
    unknown = [
        observations.names[arm]
        for arm in (a, b)
        if not any(True for _ in observations.known(arm, metric))
    ]
    if unknown:
        return metric.missing + (f" of {unknown[0]}" if len(unknown) == 1 else "")
    paths_a, builds_a = _facts(observations, metric, a)
    paths_b, builds_b = _facts(observations, metric, b)
    for arm, builds in ((a, builds_a), (b, builds_b)):
        if len(builds) > 1:
            return f"unlike builds: {observations.names[arm]} changed during the run"
    if metric.timed and paths_a != paths_b:
        return (
            f"unlike kernel paths: {observations.names[a]} on {_listed(paths_a)}, "
            f"{observations.names[b]} on {_listed(paths_b)}"
        )
    return None


def _facts(observations: Observations, metric: Metric, arm: int) -> tuple[set[str], set[str]]:
    """Return kernel paths and builds of the trials of an arm that know the metric."""
    trials = [each.trial for each in observations.known(arm, metric)]
    paths = {trial.kernel_path for trial in trials if trial.kernel_path is not None}
    return paths, {trial.build_sha256 for trial in trials if trial.build_sha256 is not None}


def _listed(names: set[str]) -> str:
    return " and ".join(sorted(names)) or "an unknown one"


def _compare(observations: Observations, metric: Metric, a: int, b: int) -> Comparison:
    arms = (observations.names[a], observations.names[b])
    reason = incomparable(observations, metric, a, b)
    if reason is not None:
        return refuse(metric.name, arms, reason, better=metric.better)
    pairs, out = observations.pairs(a, b, metric)
    told = _left_out(out)
    if not pairs:
        reason = "; ".join(filter(None, (too_few(0), told)))
        return refuse(metric.name, arms, reason, better=metric.better)
    compare = compare_shares if metric.is_share else compare_ratios
    found = compare(metric.name, arms, pairs, better=metric.better)
    if not told:
        return found
    if found.refused is not None:
        return structs.replace(found, refused=f"{found.refused}; {told}")
    return structs.replace(found, note="; ".join(filter(None, (found.note, told))))


def _left_out(out: Counter[str]) -> str:
    return "; ".join(
        f"{count} {'pair' if count == 1 else 'pairs'} left out: {reason}"
        for reason, count in sorted(out.items())
    )


def context_ratios(observations: Observations) -> list[ContextRatio]:
    """Return the median of the pairs' ratios at each context, for metrics of curves."""
    found = []
    for metric in observations.metrics:
        if metric.name not in CURVE_METRICS:
            continue
        for a, b in observations.pairs_of_arms:
            if incomparable(observations, metric, a, b) is not None:
                continue
            ratios: dict[int, list[float]] = defaultdict(list)
            for pair in observations.pairs(a, b, metric)[0]:
                _, context = cast("PromptKey", pair.prompt)
                if context is not None and pair.a > 0:
                    ratios[context].append(pair.b / pair.a)
            found += [
                ContextRatio(
                    metric=metric.name,
                    arms=(observations.names[a], observations.names[b]),
                    context_tokens=context,
                    ratio=with_interval(intervals.median(values)),
                )
                for context, values in sorted(ratios.items())
            ]
    return found


def with_interval(estimate: intervals.Estimate) -> ValueWithInterval:
    """Return an estimate as a report shows it."""
    return ValueWithInterval(
        value=estimate.value, low=estimate.low, high=estimate.high, n=estimate.n
    )


def crossovers(observations: Observations) -> list[ReportCrossover]:
    """Return where the curves of every two arms cross, for each metric that has curves."""
    found = []
    for metric in observations.metrics:
        if metric.name not in CURVE_METRICS or not any(
            value_of(trial, metric) is not None for trial in observations.trials
        ):
            continue
        for a, b in observations.pairs_of_arms:
            arms = (observations.names[a], observations.names[b])
            reason = incomparable(observations, metric, a, b)
            if reason is not None:
                found.append(
                    ReportCrossover(
                        metric=metric.name,
                        arms=arms,
                        context_tokens=None,
                        low=None,
                        high=None,
                        reason=reason,
                    )
                )
                continue
            crossing = crossover(
                samples(observations, a, metric),
                samples(observations, b, metric),
                seed=observations.plan.seed,
            )
            found.append(
                ReportCrossover(
                    metric=metric.name,
                    arms=arms,
                    context_tokens=crossing.context_tokens,
                    low=crossing.low,
                    high=crossing.high,
                    reason=crossing.reason,
                    lower_before=None
                    if crossing.lower_before is None
                    else arms[crossing.lower_before],
                )
            )
    return found


def by_context(judged: Sequence[Verdict], crossings: Sequence[ReportCrossover]) -> list[Verdict]:
    """Return verdicts that say so where the arms change places within the contexts measured."""
    located = {
        (each.metric, each.arms): each
        for each in crossings
        if each.context_tokens is not None and each.low is not None and each.high is not None
    }
    return [
        _with_crossing(each, located[each.metric, each.arms])
        if (each.metric, each.arms) in located and each.kind in ("resolved", "unresolved")
        else each
        for each in judged
    ]


def _with_crossing(verdict: Verdict, crossing: ReportCrossover) -> Verdict:
    tokens = f"{crossing.context_tokens:,.0f}"
    if verdict.kind == "resolved":
        told = f"over all contexts measured; they cross at {tokens} tokens"
        return structs.replace(verdict, reason="; ".join(filter(None, (told, verdict.reason))))
    # More pairs narrow the interval of a mixture that means nothing: the context decides.
    told = f"the context decides: they cross at {tokens} tokens"
    return structs.replace(verdict, reason=told, pairs_to_settle=None)


def domination(
    names: Sequence[str], judged: Sequence[Verdict]
) -> tuple[list[Dominated], tuple[str, ...]]:
    """Return who is dominated by whom, and the metrics that this was judged by."""
    by_pair = {(each.metric, frozenset(each.arms)): each for each in judged}
    metrics = [
        metric
        for metric in dict.fromkeys(each.metric for each in judged)
        if metric not in _PARTS
        and any(each.kind != "not_tested" for each in judged if each.metric == metric)
    ]

    def relate(metric: str, arm: str, other: str) -> pareto.Relation:
        verdict = by_pair[metric, frozenset((arm, other))]
        if verdict.kind == "resolved":
            return "better" if verdict.verdict == other else "worse"
        return "same" if verdict.verdict == NO_DIFFERENCE else "unknown"

    found = pareto.dominated_by(names, metrics, relate)
    return [Dominated(arm=arm, dominated_by=tuple(by)) for arm, by in found.items()], tuple(metrics)
