"""Curves of arms against context."""

from collections import defaultdict
from collections.abc import Mapping

from service.core.experiments.metric import Metric
from service.core.experiments.report import Curve, CurveFit, CurvePoint
from service.core.statistics.curves import Samples, fit, points
from service.serving.experiments.report.observations import Observations, context_of

#: Metrics that are shown against context.
CURVE_METRICS = ("memory_bytes", "tpot_ms", "ttft_ms", "prefill_ms", "energy_j")


def samples(observations: Observations, arm: int, metric: Metric) -> Samples:
    """Return an arm's values by context."""
    found: dict[int, list[float]] = defaultdict(list)
    for each in observations.counted(arm, metric):
        context = context_of(each.trial)
        if context is not None:
            found[context].append(each.value)
    return found


def curves(
    observations: Observations, predicted_bytes: Mapping[str, Mapping[int, float]]
) -> list[Curve]:
    """Return medians, fit and prediction of each arm and metric that has values."""
    found = []
    for metric in observations.metrics:
        if metric.name not in CURVE_METRICS:
            continue
        for arm, name in enumerate(observations.names):
            values = samples(observations, arm, metric)
            if not values:
                continue
            predicted = predicted_bytes.get(observations.plan.arms[arm].model, {})
            found.append(
                Curve(
                    arm=name,
                    metric=metric.name,
                    points=tuple(
                        CurvePoint(
                            context_tokens=point.context_tokens,
                            median=point.median.value,
                            low=point.median.low,
                            high=point.median.high,
                            n=point.median.n,
                        )
                        for point in points(values)
                    ),
                    fit=_fit(values),
                    raw=tuple(
                        (context, value)
                        for context, each in sorted(values.items())
                        for value in each
                    ),
                    predicted=tuple(sorted(predicted.items()))
                    if metric.name == "memory_bytes"
                    else (),
                )
            )
    return found


def _fit(values: Samples) -> CurveFit | None:
    found = fit(values)
    if found is None:
        return None
    return CurveFit(
        form=found.form,
        coefficients=found.coefficients,
        lows=found.lows,
        highs=found.highs,
        r_squared=found.r_squared,
        low_tokens=found.low_tokens,
        high_tokens=found.high_tokens,
    )
