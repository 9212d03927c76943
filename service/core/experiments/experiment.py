"""Experiment: a plan that is run, and how far it has come."""

from typing import Any, Literal

from msgspec import Struct

from service.core.experiments.plan import Plan

ExperimentState = Literal["queued", "running", "done", "cancelled", "failed"]

#: States that a run ends with; the others are continued when the service starts again.
ENDED: frozenset[ExperimentState] = frozenset({"done", "cancelled", "failed"})


class Experiment(Struct, frozen=True, kw_only=True):
    """A plan under way. Times are nanoseconds of the wall clock."""

    id: str
    plan: Plan
    state: ExperimentState = "queued"
    created_at_ns: int
    started_at_ns: int | None = None
    ended_at_ns: int | None = None
    planned_trials: int
    record_ids: tuple[str, ...] = ()
    """Records whose prompts the arms are given, chosen when the experiment was created."""
    unusable_records: dict[str, int] = {}
    """Records that matched and were left out, by the reason."""
    continued: int = 0
    """How often it went on after the service had stopped."""
    environment: dict[str, Any] | None = None
    """What it ran on, noted when it ended."""
    error: str | None = None
    """Why it failed as a whole."""


class TrialCounts(Struct, frozen=True, kw_only=True):
    """Ended trials, warm-ups included."""

    ended: int = 0
    failed: int = 0
    """Of those that ended."""
