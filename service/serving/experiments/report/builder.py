"""Builder: from a plan, its trials and the environment to a report."""

from collections.abc import Mapping, Sequence
from string import ascii_uppercase

import msgspec

from service.core.experiments.plan import Plan
from service.core.experiments.report import Report, ReportArm
from service.core.experiments.trial import Trial
from service.serving.experiments.report import comparing, details, unsaid
from service.serving.experiments.report.curves import curves
from service.serving.experiments.report.observations import Observations

_MOST_ERRORS = 5


def build(
    plan: Plan,
    trials: Sequence[Trial],
    environment: Mapping[str, object],
    *,
    name: str,
    prompts: Mapping[str, str],
    predicted_bytes: Mapping[str, Mapping[int, float]],
) -> Report:
    """Return the report; `build_report` has the arguments."""
    observations = Observations(plan, trials)
    arms = tuple(_arm(observations, index) for index in range(len(plan.arms)))
    found_curves = tuple(curves(observations, predicted_bytes))
    crossings = tuple(comparing.crossovers(observations))
    judged = tuple(comparing.by_context(comparing.verdicts(observations), crossings))
    dominated, dominated_metrics = comparing.domination(observations.names, judged)
    spread = tuple(details.distributions(observations))
    residuals = tuple(details.residuals(observations))
    pairs = list(details.prompt_pairs(observations))
    return Report(
        name=name,
        margin=plan.margin,
        measures=plan.measures,
        trials=len(observations.trials),
        arms=arms,
        curves=found_curves,
        crossovers=crossings,
        verdicts=judged,
        pareto=tuple(dominated),
        environment=msgspec.to_builtins(dict(environment), enc_hook=str),
        not_said=(
            *unsaid.of_trials(observations, arms),
            *unsaid.of_verdicts(judged),
            *unsaid.of_curves(found_curves),
            *unsaid.of_tails(spread),
            *unsaid.of_drift(residuals),
        ),
        pareto_metrics=dominated_metrics,
        levels=tuple(details.levels(observations)),
        distributions=spread,
        context_ratios=tuple(comparing.context_ratios(observations)),
        prompt_pairs=tuple(pairs),
        differing_prompts=tuple(details.differing_prompts(pairs, prompts)),
        accuracies=tuple(details.accuracies(observations)),
        turns=tuple(details.turns(observations)),
        residuals=residuals,
    )


def _arm(observations: Observations, index: int) -> ReportArm:
    done = observations.done(index)
    failed = [
        trial for trial in observations.trials if trial.arm == index and trial.state == "failed"
    ]
    errors = dict.fromkeys(trial.error for trial in failed if trial.error is not None)
    arm = observations.plan.arms[index]
    return ReportArm(
        name=observations.names[index],
        letter=ascii_uppercase[index],
        model=arm.model,
        sampling=arm.sampling,
        done=len(done),
        failed=len(failed),
        cold=sum(trial.cold for trial in done),
        kernel_paths=tuple(sorted({each.kernel_path for each in done if each.kernel_path})),
        builds=tuple(sorted({each.build_sha256 for each in done if each.build_sha256})),
        errors=tuple(errors)[:_MOST_ERRORS],
    )
