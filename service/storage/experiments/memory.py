"""In-memory store of experiments, for tests and for services that must leave nothing on disk."""

import threading
from collections.abc import Sequence

from service.core.experiments.experiment import ENDED, Experiment, TrialCounts
from service.core.experiments.trial import Trial


class MemoryExperimentStore:
    """Experiments in a dict; gone with the process. Safe to use from several threads."""

    def __init__(self) -> None:
        self._experiments: dict[str, Experiment] = {}
        self._trials: dict[str, dict[int, Trial]] = {}
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<MemoryExperimentStore [{len(self._experiments)} experiments]>"

    def put(self, experiment: Experiment) -> None:
        """Insert or replace an experiment."""
        with self._lock:
            self._experiments[experiment.id] = experiment
            self._trials.setdefault(experiment.id, {})

    def get(self, experiment_id: str) -> Experiment | None:
        """Read an experiment; None if there is none with this id."""
        return self._experiments.get(experiment_id)

    def page(self, *, limit: int, before: str | None = None) -> tuple[Experiment, ...]:
        """Read experiments, newest first, that are older than the one with the id *before*."""
        with self._lock:
            ids = sorted(self._experiments, reverse=True)
            older = [each for each in ids if before is None or each < before]
            return tuple(self._experiments[each] for each in older[:limit])

    def unfinished(self) -> tuple[Experiment, ...]:
        """Read the experiments that have not ended, oldest first."""
        with self._lock:
            everyone = [self._experiments[each] for each in sorted(self._experiments)]
        return tuple(each for each in everyone if each.state not in ENDED)

    def write_trial(self, experiment_id: str, trial: Trial) -> None:
        """Insert or replace a trial, by its number."""
        with self._lock:
            self._trials[experiment_id][trial.number] = trial

    def trials(self, experiment_id: str) -> tuple[Trial, ...]:
        """Read the trials that have ended, by number."""
        with self._lock:
            found = self._trials.get(experiment_id, {})
            return tuple(found[number] for number in sorted(found))

    def counts(self, experiment_ids: Sequence[str]) -> dict[str, TrialCounts]:
        """Count ended trials of each experiment."""
        counted = {}
        for each in experiment_ids:
            trials = self.trials(each)
            failed = sum(trial.state == "failed" for trial in trials)
            counted[each] = TrialCounts(ended=len(trials), failed=failed)
        return counted

    def close(self) -> None:
        """Nothing to release."""
