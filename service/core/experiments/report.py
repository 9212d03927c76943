"""Report of an experiment: what was measured, what follows, and what could not be said."""

from typing import Any, Literal

from msgspec import Struct, field

from service.core.statistics.verdict import Verdict


class ReportArm(Struct, frozen=True, kw_only=True):
    """An arm and how its trials went."""

    name: str
    """The model; with `#2` and so on where several arms share it."""
    letter: str
    """A, B, C … for figures."""
    model: str
    sampling: dict[str, Any]
    done: int
    failed: int
    cold: int
    """Trials that waited for their model to load: left out of every number."""
    kernel_paths: tuple[str, ...]
    builds: tuple[str, ...]
    errors: tuple[str, ...]
    """Distinct reasons of failed trials, at most five."""


class ValueWithInterval(Struct, frozen=True, kw_only=True):
    """A number with its interval; `low` and `high` are None where `n` carries none."""

    value: float
    low: float | None
    high: float | None
    n: int


class CurvePoint(Struct, frozen=True, kw_only=True):
    """Median of an arm at one context."""

    context_tokens: int
    median: float
    low: float | None
    high: float | None
    n: int


class CurveFit(Struct, frozen=True, kw_only=True):
    """`a + b·L` or `a + b·L + c·L²` through the medians, valid between the two contexts."""

    form: Literal["linear", "quadratic"]
    coefficients: tuple[float, ...]
    lows: tuple[float | None, ...]
    highs: tuple[float | None, ...]
    r_squared: float | None
    low_tokens: int
    high_tokens: int

    def at(self, tokens: float) -> float:
        """Return the curve's value at a context."""
        return sum(each * tokens**power for power, each in enumerate(self.coefficients))


class Curve(Struct, frozen=True, kw_only=True):
    """A metric of an arm against context."""

    arm: str
    metric: str
    points: tuple[CurvePoint, ...]
    fit: CurveFit | None
    """None with fewer than three contexts."""
    raw: tuple[tuple[int, float], ...] = ()
    """Every observation: context and value."""
    predicted: tuple[tuple[int, float], ...] = ()
    """Context and bytes by the planning formula, where it was given."""


class ReportCrossover(Struct, frozen=True, kw_only=True):
    """The context at which two arms' curves cross; None with the reason where they do not."""

    metric: str
    arms: tuple[str, str]
    context_tokens: float | None
    low: float | None
    high: float | None
    reason: str | None
    lower_before: str | None = None
    """The arm whose curve is lower until there, or in the whole range if they do not cross."""


class Dominated(Struct, frozen=True, kw_only=True):
    """An arm, and the arms that are certainly no worse in every metric and better in one."""

    arm: str
    dominated_by: tuple[str, ...]


class Level(Struct, frozen=True, kw_only=True):
    """A metric of an arm over all its prompts."""

    arm: str
    metric: str
    median: ValueWithInterval


class Distribution(Struct, frozen=True, kw_only=True):
    """All values of a metric of an arm, in ascending order."""

    arm: str
    metric: str
    values: tuple[float, ...]
    percentiles: dict[str, ValueWithInterval | None]
    """`p50`, `p95`, `p99`; None where there are too few observations."""


class ContextRatio(Struct, frozen=True, kw_only=True):
    """Median of the pairs' ratios b/a at one context."""

    metric: str
    arms: tuple[str, str]
    context_tokens: int
    ratio: ValueWithInterval


class PromptPair(Struct, frozen=True, kw_only=True):
    """Both arms' values on one prompt: the median of its repetitions."""

    metric: str
    arms: tuple[str, str]
    prompt_id: str
    context_tokens: int | None
    a: float
    b: float


class DifferingPrompt(PromptPair, frozen=True, kw_only=True):
    """A prompt on which two arms differ much."""

    ratio: float
    text: str | None = None
    """Of the prompt, where it is known."""


class Accuracy(Struct, frozen=True, kw_only=True):
    """Share of right answers of an arm at one level of a probe, with Wilson's interval."""

    arm: str
    probe: str
    level: int | None
    share: ValueWithInterval


class Turn(Struct, frozen=True, kw_only=True):
    """A metric of an arm at one turn of its conversations."""

    arm: str
    metric: str
    turn: int
    median: ValueWithInterval


class Residual(Struct, frozen=True, kw_only=True):
    """A trial's value against the median of its arm, context and metric, by order of the run."""

    arm: str
    metric: str
    number: int
    ratio: float


class NotSaid(Struct, frozen=True, kw_only=True):
    """What the report does not say, and why."""

    about: str
    reason: str


class Report(Struct, frozen=True, kw_only=True):
    """Everything that an experiment's trials say. Renderers add nothing to it."""

    name: str
    margin: float
    measures: tuple[str, ...]
    trials: int
    """Planned, without warm-ups."""
    arms: tuple[ReportArm, ...]
    curves: tuple[Curve, ...] = ()
    crossovers: tuple[ReportCrossover, ...] = ()
    verdicts: tuple[Verdict, ...] = ()
    pareto: tuple[Dominated, ...] = ()
    environment: dict[str, Any] = field(default_factory=dict)
    not_said: tuple[NotSaid, ...] = ()

    pareto_metrics: tuple[str, ...] = ()
    """Metrics that domination was judged by."""
    levels: tuple[Level, ...] = ()
    distributions: tuple[Distribution, ...] = ()
    context_ratios: tuple[ContextRatio, ...] = ()
    prompt_pairs: tuple[PromptPair, ...] = ()
    differing_prompts: tuple[DifferingPrompt, ...] = ()
    accuracies: tuple[Accuracy, ...] = ()
    turns: tuple[Turn, ...] = ()
    residuals: tuple[Residual, ...] = ()
