"""Progress of an experiment: an event, and the state of a run that can be read at any time."""

from typing import Literal

from msgspec import Struct

from service.core.experiments.experiment import ExperimentState
from service.core.experiments.trial import Trial

Wait = Literal["busy", "model", "store"]


class Progress(Struct, frozen=True, kw_only=True):
    """How far an experiment is; trials include warm-ups."""

    object: Literal["experiment.progress"] = "experiment.progress"
    experiment: str
    state: ExperimentState
    planned: int
    done: int
    """Trials that have ended, the failed ones included."""
    failed: int
    waits_for: Wait | None = None
    """`busy`: other requests run. `model`: it cannot answer now. `store`: nothing can be written.
    None while a trial runs."""
    trial: Trial | None = None
    """The trial that has just ended."""
