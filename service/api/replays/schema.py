"""Bodies of /v1/replays."""

from typing import Annotated, Literal

from msgspec import Meta, Struct, field

from service.core.experiments.experiment import ExperimentState
from service.core.experiments.plan import Arm
from service.core.experiments.progress import Wait
from service.core.experiments.replay import ReplayArm, ReplayPair
from service.serving.experiments.replay import MOST_CONVERSATIONS, Replay


class ReplayBody(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Recorded conversations for other arms."""

    arms: Annotated[tuple[Arm, ...], Meta(min_length=1, max_length=8)]
    """Parameters in `sampling` replace the recorded ones; all others are kept."""
    filter: dict[str, str] = field(default_factory=dict)
    """Filter of the records as `/v1/records` takes it."""
    limit: Annotated[int, Meta(ge=1, le=MOST_CONVERSATIONS)] = 100
    """Most conversations, the newest first."""
    repetitions: Annotated[int, Meta(ge=1, le=100)] = 1
    name: Annotated[str, Meta(min_length=1, max_length=200)] = "replay"
    seed: int = 0
    """Decides the order in which arms and conversations follow each other."""


class ReplayAnswer(Struct, frozen=True, kw_only=True):
    """A replay, and what has been found so far. Times are nanoseconds of the wall clock."""

    id: str
    """Also the id of the experiment that runs it."""
    object: Literal["replay"] = "replay"
    name: str
    state: ExperimentState
    conversations: int
    unusable: dict[str, int]
    """Matching records that cannot be asked again, by the reason."""
    planned: int
    """Requests, warm-ups included."""
    done: int
    failed: int
    waits_for: Wait | None
    created_at_ns: int
    started_at_ns: int | None
    ended_at_ns: int | None
    arms: tuple[ReplayArm, ...]
    gone: int
    """Pairs whose recorded answer is not stored any more."""
    error: str | None

    @classmethod
    def of(cls, replay: Replay) -> "ReplayAnswer":
        """Convert to the wire type."""
        experiment, progress = replay.experiment, replay.progress
        return cls(
            id=experiment.id,
            name=experiment.plan.name,
            state=progress.state,
            conversations=len(experiment.record_ids),
            unusable=experiment.unusable_records,
            planned=progress.planned,
            done=progress.done,
            failed=progress.failed,
            waits_for=progress.waits_for,
            created_at_ns=experiment.created_at_ns,
            started_at_ns=experiment.started_at_ns,
            ended_at_ns=experiment.ended_at_ns,
            arms=replay.arms,
            gone=replay.gone,
            error=experiment.error,
        )


class PairList(Struct, frozen=True, kw_only=True):
    """Pairs so far, in the order of the run."""

    object: Literal["list"] = "list"
    data: tuple[ReplayPair, ...]
