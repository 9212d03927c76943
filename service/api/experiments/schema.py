"""Answers of /v1/experiments."""

from typing import Any, Literal

from msgspec import Struct

from service.core.experiments.experiment import Experiment, ExperimentState
from service.core.experiments.plan import Plan
from service.core.experiments.progress import Progress, Wait
from service.core.experiments.trial import Trial


class ExperimentAnswer(Struct, frozen=True, kw_only=True):
    """An experiment, and how far it is. Times are nanoseconds of the wall clock."""

    id: str
    object: Literal["experiment"] = "experiment"
    name: str
    state: ExperimentState
    planned: int
    """Trials, warm-ups included."""
    done: int
    """Trials that have ended, the failed ones included."""
    failed: int
    waits_for: Wait | None
    """`busy`: other requests run. `model`: it cannot answer now. `store`: nothing can be written.
    """
    created_at_ns: int
    started_at_ns: int | None
    ended_at_ns: int | None
    continued: int
    """How often it went on after the service had stopped."""
    environment: dict[str, Any] | None
    error: str | None
    plan: Plan

    @classmethod
    def of(cls, experiment: Experiment, progress: Progress) -> "ExperimentAnswer":
        """Join what was planned and what has become of it."""
        return cls(
            id=experiment.id,
            name=experiment.plan.name,
            state=progress.state,
            planned=progress.planned,
            done=progress.done,
            failed=progress.failed,
            waits_for=progress.waits_for,
            created_at_ns=experiment.created_at_ns,
            started_at_ns=experiment.started_at_ns,
            ended_at_ns=experiment.ended_at_ns,
            continued=experiment.continued,
            environment=experiment.environment,
            error=experiment.error,
            plan=experiment.plan,
        )


class ExperimentPage(Struct, frozen=True, kw_only=True):
    """Experiments, newest first."""

    object: Literal["list"] = "list"
    data: list[ExperimentAnswer]
    next_cursor: str | None
    """Continues after this page; null on the last one."""


class TrialList(Struct, frozen=True, kw_only=True):
    """Trials that have ended, in the order of the run."""

    object: Literal["list"] = "list"
    data: tuple[Trial, ...]
