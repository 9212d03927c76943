"""Observations: trials that count, by arm and metric, and the pairs that they form."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from msgspec import Struct

from service.core.experiments.metric import METRICS, Metric, probe_metric
from service.core.experiments.plan import Plan
from service.core.experiments.trial import Trial
from service.core.statistics.paired import Pair
from service.core.statistics.verdict import NO_DIFFERENCE, UNDECIDED

#: Measures whose trials are timed and weighed at once.
_TIMED = ("speed", "memory")


class Observation(Struct, frozen=True, kw_only=True):
    """One value of one trial."""

    trial: Trial
    value: float


class Observations:
    """All ended trials of a plan, warm-ups left out."""

    def __init__(self, plan: Plan, trials: Sequence[Trial]) -> None:
        self.plan = plan
        self.trials = [
            trial for trial in trials if not trial.warmup and 0 <= trial.arm < len(plan.arms)
        ]
        self.names = arm_names([arm.model for arm in plan.arms])
        self._by_arm: dict[int, list[Trial]] = defaultdict(list)
        for trial in self.trials:
            if trial.state == "done":
                self._by_arm[trial.arm].append(trial)

    @property
    def pairs_of_arms(self) -> list[tuple[int, int]]:
        """Every two arms, the earlier first."""
        count = len(self.names)
        return [(a, b) for a in range(count) for b in range(a + 1, count)]

    @property
    def metrics(self) -> list[Metric]:
        """What the plan measures, in order of a report."""
        probes = sorted({trial.probe for trial in self.trials if trial.probe is not None})
        return [metric for metric in METRICS.values() if metric.measure in self.plan.measures] + [
            probe_metric(probe) for probe in probes if probe not in METRICS
        ]

    def done(self, arm: int) -> list[Trial]:
        """Return all trials of an arm that succeeded, cold ones included."""
        return self._by_arm[arm]

    def known(self, arm: int, metric: Metric) -> Iterator[Observation]:
        """Yield an arm's values, also of trials that do not count."""
        for trial in self._by_arm[arm]:
            value = value_of(trial, metric)
            if value is not None and math.isfinite(value):
                yield Observation(trial=trial, value=value)

    def counted(self, arm: int, metric: Metric) -> list[Observation]:
        """Return an arm's values that count: not cold, and of timed ones not disturbed."""
        return [each for each in self.known(arm, metric) if left_out(each.trial, metric) is None]

    def pairs(self, a: int, b: int, metric: Metric) -> tuple[list[Pair], Counter[str]]:
        """Return pairs of two arms, and how many were left out by reason."""
        others = {each.trial.pairing: each for each in self.known(b, metric)}
        found: list[Pair] = []
        out: Counter[str] = Counter()
        for one in self.known(a, metric):
            other = others.get(one.trial.pairing)
            if other is None:
                out["one arm has no value"] += 1
                continue
            reason = left_out(one.trial, metric) or left_out(other.trial, metric)
            if reason is not None:
                out[reason] += 1
                continue
            prompt = prompt_key(one.trial)
            found.append(Pair(prompt=prompt, a=one.value, b=other.value))
        return found, out


def arm_names(models: Sequence[str]) -> list[str]:
    """Return a name for each arm: its model, numbered where that would be ambiguous."""
    names: list[str] = []
    seen: Counter[str] = Counter()
    for model in models:
        seen[model] += 1
        ambiguous = models.count(model) > 1 or model in (NO_DIFFERENCE, UNDECIDED)
        name = f"{model} #{seen[model]}" if ambiguous else model
        while name in names or (ambiguous and name in models):
            name += "'"
        names.append(name)
    return names


def value_of(trial: Trial, metric: Metric) -> float | None:
    """Return what a trial says of a metric; None if it is of another measure or does not know."""
    if metric.is_share:
        return trial.values.get(metric.name) if trial.probe == metric.name else None
    if metric.name == "later_turns_ttft_ms":
        return trial.values.get("ttft_ms") if (trial.turn or 0) > 1 else None
    same = trial.measure == metric.measure or {trial.measure, metric.measure} <= set(_TIMED)
    return trial.values.get(metric.name) if same else None


def left_out(trial: Trial, metric: Metric) -> str | None:
    """Return why a trial does not count; None if it does."""
    if trial.cold:
        return "cold rows"
    if metric.timed and trial.disturbances:
        return f"disturbed ({', '.join(trial.disturbances)})"
    return None


def context_of(trial: Trial) -> int | None:
    """Return the context of a trial: what the plan asked for, else the prompt's tokens."""
    return trial.context_tokens if trial.context_tokens is not None else trial.prompt_tokens


PromptKey = tuple[str, int | None]


def prompt_key(trial: Trial) -> PromptKey:
    """Return what repetitions of a prompt, and turns of a conversation, have in common."""
    return (trial.prompt_id, trial.context_tokens)
