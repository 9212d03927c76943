"""Protocol of the store of experiments."""

from collections.abc import Sequence
from typing import Protocol

from service.core.experiments.experiment import Experiment, TrialCounts
from service.core.experiments.trial import Trial


class ExperimentStore(Protocol):
    """Storage of experiments and of their ended trials. Methods block: call them from a thread.

    Every method raises StoreUnavailable when the database cannot be used; nothing is written then.
    """

    def put(self, experiment: Experiment) -> None:
        """Insert or replace an experiment."""

    def get(self, experiment_id: str) -> Experiment | None:
        """Read an experiment; None if there is none with this id."""

    def page(self, *, limit: int, before: str | None = None) -> tuple[Experiment, ...]:
        """Read experiments, newest first, that are older than the one with the id *before*."""

    def unfinished(self) -> tuple[Experiment, ...]:
        """Read the experiments that have not ended, oldest first."""

    def write_trial(self, experiment_id: str, trial: Trial) -> None:
        """Insert or replace a trial, by its number."""

    def trials(self, experiment_id: str) -> tuple[Trial, ...]:
        """Read the trials that have ended, by number."""

    def counts(self, experiment_ids: Sequence[str]) -> dict[str, TrialCounts]:
        """Count ended trials of each experiment."""

    def close(self) -> None:
        """Release files and connections."""
