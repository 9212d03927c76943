"""Details of arms: medians, distributions, prompts, probes, turns and residuals."""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import cast

import numpy as np

from service.core.experiments.metric import METRICS, Metric
from service.core.experiments.report import (
    Accuracy,
    DifferingPrompt,
    Distribution,
    Level,
    PromptPair,
    Residual,
    Turn,
    ValueWithInterval,
)
from service.core.statistics import intervals
from service.serving.experiments.report.comparing import incomparable, with_interval
from service.serving.experiments.report.observations import Observations, PromptKey, prompt_key

PERCENTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
#: Metrics whose tails matter, and whose drift is looked for.
TIMED = ("tpot_ms", "ttft_ms")
#: Metrics by which prompts are told apart; bytes of a context are the same for all prompts.
_BY_PROMPT = ("tpot_ms", "ttft_ms", "bits_per_byte")
_MOST_DIFFERING = 5
_TURN_METRICS = ("ttft_ms", "memory_bytes", "cached_tokens")
#: Fewer values of a cell tell no residual: one of two is as far off as the other.
_LEAST_OF_CELL = 3


def levels(observations: Observations) -> Iterator[Level]:
    """Yield each arm's median over its prompts, or its share of right answers."""
    for metric in observations.metrics:
        for arm, name in enumerate(observations.names):
            by_prompt: dict[object, list[float]] = defaultdict(list)
            for each in observations.counted(arm, metric):
                by_prompt[prompt_key(each.trial)].append(each.value)
            if not by_prompt:
                continue
            if metric.is_share:
                right = sum(round(values[0]) for values in by_prompt.values())
                estimate = intervals.wilson(right, len(by_prompt))
            else:
                estimate = intervals.median([float(np.median(each)) for each in by_prompt.values()])
            yield Level(arm=name, metric=metric.name, median=with_interval(estimate))


def distributions(observations: Observations) -> Iterator[Distribution]:
    """Yield all values of the metrics whose tails matter."""
    for metric in observations.metrics:
        for arm, name in enumerate(observations.names):
            values = sorted(each.value for each in observations.counted(arm, metric))
            if metric.name in TIMED and values:
                found = {
                    label: intervals.percentile(values, share)
                    for label, share in PERCENTILES.items()
                }
                yield Distribution(
                    arm=name,
                    metric=metric.name,
                    values=tuple(values),
                    percentiles={
                        label: None if each is None else with_interval(each)
                        for label, each in found.items()
                    },
                )


def prompt_pairs(observations: Observations) -> Iterator[PromptPair]:
    """Yield both values of every two arms on each prompt."""
    for metric in observations.metrics:
        if metric.name not in _BY_PROMPT and not metric.is_share:
            continue
        for a, b in observations.pairs_of_arms:
            if incomparable(observations, metric, a, b) is not None:
                continue
            by_prompt: dict[object, list[tuple[float, float]]] = defaultdict(list)
            for pair in observations.pairs(a, b, metric)[0]:
                by_prompt[pair.prompt].append((pair.a, pair.b))
            for key, values in by_prompt.items():
                prompt_id, context = cast("PromptKey", key)
                middle = np.median(values, axis=0)
                yield PromptPair(
                    metric=metric.name,
                    arms=(observations.names[a], observations.names[b]),
                    prompt_id=prompt_id,
                    context_tokens=context,
                    a=float(middle[0]),
                    b=float(middle[1]),
                )


def differing_prompts(
    pairs: list[PromptPair], prompts: Mapping[str, str]
) -> Iterator[DifferingPrompt]:
    """Yield the prompts on which two arms differ most, by metric: the greatest ratios."""
    grouped: dict[tuple[str, tuple[str, str]], list[PromptPair]] = defaultdict(list)
    for pair in pairs:
        if pair.metric in METRICS and pair.a > 0 and pair.b > 0 and pair.a != pair.b:
            grouped[pair.metric, pair.arms].append(pair)
    for found in grouped.values():
        found.sort(key=lambda pair: -abs(math.log(pair.b / pair.a)))
        for pair in found[:_MOST_DIFFERING]:
            yield DifferingPrompt(
                metric=pair.metric,
                arms=pair.arms,
                prompt_id=pair.prompt_id,
                context_tokens=pair.context_tokens,
                a=pair.a,
                b=pair.b,
                ratio=pair.b / pair.a,
                text=prompts.get(pair.prompt_id),
            )


def accuracies(observations: Observations) -> Iterator[Accuracy]:
    """Yield the share of right answers by arm, probe and level."""
    for metric in observations.metrics:
        if not metric.is_share:
            continue
        for arm, name in enumerate(observations.names):
            by_level: dict[int | None, dict[object, float]] = defaultdict(dict)
            for each in observations.counted(arm, metric):
                answers = by_level[each.trial.level]
                answers.setdefault(prompt_key(each.trial), each.value)
            for level, answers in sorted(by_level.items(), key=lambda item: item[0] or 0):
                right = sum(round(value) for value in answers.values())
                estimate = intervals.wilson(right, len(answers))
                yield Accuracy(
                    arm=name, probe=metric.name, level=level, share=with_interval(estimate)
                )


def turns(observations: Observations) -> Iterator[Turn]:
    """Yield TTFT, bytes and reused tokens by turn of the conversations."""
    for metric in _TURN_METRICS:
        timed = METRICS["ttft_ms"] if metric == "ttft_ms" else None
        for arm, name in enumerate(observations.names):
            by_turn: dict[int, list[float]] = defaultdict(list)
            for trial in observations.done(arm):
                value = trial.values.get(metric)
                disturbed = timed is not None and bool(trial.disturbances)
                if trial.turn is None or value is None or trial.cold or disturbed:
                    continue
                by_turn[trial.turn].append(value)
            for turn, values in sorted(by_turn.items()):
                yield Turn(arm=name, metric=metric, turn=turn, median=_median(values))


def _median(values: list[float]) -> ValueWithInterval:
    return with_interval(intervals.median(values))


def residuals(observations: Observations) -> Iterator[Residual]:
    """Yield each timed value over the median of its arm and context, by order of the run."""
    for metric in observations.metrics:
        if metric.name not in TIMED:
            continue
        for arm, name in enumerate(observations.names):
            yield from _residuals(observations, arm, name, metric)


def _residuals(
    observations: Observations, arm: int, name: str, metric: Metric
) -> Iterator[Residual]:
    cells: dict[object, list[tuple[int, float]]] = defaultdict(list)
    for each in observations.counted(arm, metric):
        trial = each.trial
        cell = trial.context_tokens if trial.context_tokens is not None else trial.prompt_id
        cells[cell].append((trial.number, each.value))
    found = []
    for values in cells.values():
        middle = float(np.median([value for _, value in values]))
        if len(values) >= _LEAST_OF_CELL and middle > 0:
            found += [
                Residual(arm=name, metric=metric.name, number=number, ratio=value / middle)
                for number, value in values
            ]
    yield from sorted(found, key=lambda each: each.number)
