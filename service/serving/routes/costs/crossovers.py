"""Crossovers of experiments as thresholds between models."""

from collections.abc import Sequence
from typing import Final

from service.core.errors import InvalidRequest
from service.core.experiments.experiment import Experiment
from service.core.experiments.ports import ExperimentStore
from service.core.experiments.report import ReportCrossover
from service.core.routes.by_context import CrossoverMetric, Threshold

#: Newest experiments that are searched for a name.
_SEARCHED: Final = 200
_PARAM = "route.experiment"


class ExperimentCrossovers:
    """Reads crossovers from the trials of experiments that are done; each only once."""

    def __init__(self, store: ExperimentStore) -> None:
        self._store = store
        self._known: dict[tuple[str, CrossoverMetric, tuple[str, ...]], tuple[Threshold, ...]] = {}

    def __repr__(self) -> str:
        return f"<ExperimentCrossovers [{len(self._known)} known]>"

    def thresholds(
        self, experiment: str, metric: CrossoverMetric, between: tuple[str, ...]
    ) -> tuple[Threshold, ...]:
        """Thresholds between models; blocks the first time that they are asked for.

        Raises InvalidRequest, which says why, if the experiment gives none.
        """
        key = (experiment, metric, between)
        if key not in self._known:
            crossings = self._crossings(self._find(experiment))
            found = [
                each for each in crossings if each.metric == metric and {*each.arms} <= {*between}
            ]
            self._known[key] = thresholds_of(found, between)
        return self._known[key]

    def _find(self, name: str) -> Experiment:
        """An experiment by its id, or the newest that is done by its name."""
        found = self._store.get(name)
        if found is None:
            newest = self._store.page(limit=_SEARCHED)
            of_name = [each for each in newest if each.plan.name == name]
            done = [each for each in of_name if each.state == "done"]
            found = next(iter(done or of_name), None)
        if found is None:
            raise InvalidRequest(f"there is no experiment `{name}`.", param=_PARAM)
        if found.state != "done":
            raise InvalidRequest(
                f"the experiment `{name}` is {found.state}; it takes one that is done.",
                param=_PARAM,
            )
        return found

    def _crossings(self, experiment: Experiment) -> Sequence[ReportCrossover]:
        # Curves take NumPy and SciPy, which only such a route needs.
        from service.serving.experiments.report.comparing import crossovers
        from service.serving.experiments.report.observations import Observations

        trials = self._store.trials(experiment.id)
        return crossovers(Observations(experiment.plan, trials))


def thresholds_of(
    crossings: Sequence[ReportCrossover], between: Sequence[str]
) -> tuple[Threshold, ...]:
    """Thresholds between which one model is the lowest, from the crossovers of every two.

    Raises InvalidRequest if two were not compared, or none is the lowest somewhere.
    """
    pairs = {frozenset(each.arms): each for each in crossings}
    for number, a in enumerate(between):
        for b in between[number + 1 :]:
            _check_pair(a, b, pairs.get(frozenset((a, b))))
    limits = sorted(
        {max(1, int(each.context_tokens)) for each in pairs.values() if each.context_tokens}
    )
    thresholds: list[Threshold] = []
    for begin, end in zip([0, *limits], [*limits, None], strict=True):
        middle = begin + 1 if end is None else (begin + end) / 2
        model = _lowest(between, pairs, middle)
        if thresholds and thresholds[-1].model == model:
            thresholds.pop()
        thresholds.append(Threshold(model=model, up_to_tokens=end))
    return tuple(thresholds)


def _check_pair(a: str, b: str, crossing: ReportCrossover | None) -> None:
    if crossing is None:
        raise InvalidRequest(f"the experiment did not compare {a} and {b}.", param=_PARAM)
    if crossing.lower_before is None:
        raise InvalidRequest(
            f"the experiment cannot say which of {a} and {b} is lower: {crossing.reason}.",
            param=_PARAM,
        )


def _lowest(
    models: Sequence[str], pairs: dict[frozenset[str], ReportCrossover], context_tokens: float
) -> str:
    for model in models:
        if all(
            _lower(pairs[frozenset((model, other))], context_tokens) == model
            for other in models
            if other != model
        ):
            return model
    raise InvalidRequest(
        f"the experiment's crossovers contradict each other at {context_tokens:.0f} tokens.",
        param=_PARAM,
    )


def _lower(crossing: ReportCrossover, context_tokens: float) -> str:
    """The model whose curve is lower at a length."""
    first, second = crossing.arms
    before = crossing.lower_before or first
    if crossing.context_tokens is None or context_tokens <= crossing.context_tokens:
        return before
    return second if before == first else first
