"""What a report does not say, and why."""

from collections.abc import Iterator, Sequence

import numpy as np
from scipy import stats

from service.core.experiments.metric import metric_named
from service.core.experiments.report import Curve, Distribution, NotSaid, ReportArm, Residual
from service.core.statistics.intervals import observations_for
from service.core.statistics.verdict import Verdict
from service.serving.experiments.report.details import PERCENTILES
from service.serving.experiments.report.observations import Observations, left_out

#: Fewer residuals show no drift.
_LEAST_RESIDUALS = 10
_DRIFT_ALPHA = 0.01


def of_trials(observations: Observations, arms: Sequence[ReportArm]) -> Iterator[NotSaid]:
    """Yield what is missing because trials are missing, failed, cold or disturbed."""
    total = len(observations.trials)
    waiting = sum(trial.state == "planned" for trial in observations.trials)
    if not total:
        yield NotSaid(about="everything", reason="there are no trials")
    elif waiting:
        yield NotSaid(about="the whole plan", reason=f"{waiting} of {total} trials have not run")
    if len(arms) == 1:
        yield NotSaid(about="a comparison", reason="there is one arm")
    for index, arm in enumerate(arms):
        if arm.failed:
            why = arm.errors[0] if arm.errors else "no reason was recorded"
            reason = f"{arm.failed} of {arm.failed + arm.done} trials failed: {why}"
            yield NotSaid(about=arm.name, reason=reason)
        if arm.cold:
            reason = (
                f"left out: {arm.cold} of {arm.done} trials, which waited for the model to load"
            )
            yield NotSaid(about=arm.name, reason=reason)
        timed = metric_named("tpot_ms")
        disturbed = [
            trial
            for trial in observations.done(index)
            if not trial.cold and left_out(trial, timed) is not None
        ]
        if disturbed:
            kinds = sorted({kind for trial in disturbed for kind in trial.disturbances})
            reason = (
                f"left out: the times of {len(disturbed)} of {arm.done} trials, which were "
                f"disturbed ({', '.join(kinds)})"
            )
            yield NotSaid(about=arm.name, reason=reason)


def of_verdicts(verdicts: Sequence[Verdict]) -> Iterator[NotSaid]:
    """Yield comparisons that were not made, each reason once a metric."""
    seen: dict[tuple[str, str], list[str]] = {}
    for each in verdicts:
        if each.kind == "not_tested":
            arms = " and ".join(each.arms)
            seen.setdefault((each.metric, each.reason or "unknown"), []).append(arms)
    for (metric, reason), pairs in seen.items():
        about = f"{metric_named(metric).title}, {'; '.join(pairs)}"
        yield NotSaid(about=about, reason=reason)


def of_curves(curves: Sequence[Curve]) -> Iterator[NotSaid]:
    """Yield arms whose points carry no curve."""
    for curve in curves:
        if curve.fit is None:
            title = metric_named(curve.metric).title
            reason = f"contexts measured: {len(curve.points)}, 3 needed"
            yield NotSaid(about=f"{title} of {curve.arm} as a curve", reason=reason)


def of_tails(distributions: Sequence[Distribution]) -> Iterator[NotSaid]:
    """Yield percentiles for which there are too few observations."""
    for each in distributions:
        missing = [label for label, found in each.percentiles.items() if found is None]
        if missing:
            needed = " and ".join(
                f"{observations_for(PERCENTILES[label])} for {label}" for label in missing
            )
            yield NotSaid(
                about=f"{' and '.join(missing)} of {metric_named(each.metric).title}, {each.arm}",
                reason=f"observations: {len(each.values)}, {needed} needed",
            )


def of_drift(residuals: Sequence[Residual]) -> Iterator[NotSaid]:
    """Yield arms whose times changed with the order of the run, by Spearman's rank correlation."""
    groups: dict[tuple[str, str], list[Residual]] = {}
    for each in residuals:
        groups.setdefault((each.arm, each.metric), []).append(each)
    for (arm, metric), found in groups.items():
        ratios = np.array([each.ratio for each in found])
        if len(found) < _LEAST_RESIDUALS or np.ptp(ratios) == 0:
            continue
        drift = stats.spearmanr([each.number for each in found], ratios)
        if drift.pvalue < _DRIFT_ALPHA:
            way = "rose" if drift.statistic > 0 else "fell"
            yield NotSaid(
                about=f"steady {metric_named(metric).title} of {arm}",
                reason=f"it {way} during the run (Spearman {drift.statistic:.2f}, "
                f"p = {drift.pvalue:.2g}): arms took turns, so that ratios hold, but absolute "
                "values belong to this run",
            )
