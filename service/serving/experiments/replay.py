"""ReplayService: recorded conversations asked again, as an experiment paired with its records."""

import contextlib
import hashlib
from collections.abc import Sequence
from typing import Final

from msgspec import Struct

from service.core.errors import NotFound
from service.core.experiments.experiment import Experiment
from service.core.experiments.plan import Arm, Plan, RecordPrompts
from service.core.experiments.progress import Progress
from service.core.experiments.replay import Original, ReplayArm, ReplayPair, arm_of, pair_of
from service.core.experiments.trial import Trial
from service.core.ports import RecordFilter
from service.core.record import RequestRecord
from service.core.summary import served_id
from service.serving.experiments.measured import values_of
from service.serving.experiments.service import ExperimentService
from service.serving.records.report import Reports

MOST_CONVERSATIONS: Final = 1000


class Replay(Struct, frozen=True, kw_only=True):
    """A replay as far as it has come."""

    experiment: Experiment
    progress: Progress
    arms: tuple[ReplayArm, ...]
    pairs: tuple[ReplayPair, ...]
    """In the order of the run."""
    gone: int
    """Pairs whose recorded answer is not in the store any more."""


class ReplayService:
    """Creates replays and pairs them: the experiments run them, one after another."""

    def __init__(self, experiments: ExperimentService, records: Reports) -> None:
        self._experiments = experiments
        self._records = records

    async def create(
        self,
        arms: Sequence[Arm],
        where: RecordFilter,
        *,
        filter_values: dict[str, str],
        name: str,
        limit: int,
        repetitions: int,
        seed: int,
    ) -> Experiment:
        """Choose records, newest first, and queue their conversations for every arm.

        Turns and parameters are kept, except for parameters that an arm names. *filter_values* are
        those that *where* was read from. Raises as `ExperimentService.create` does.
        """
        plan = Plan(
            name=name,
            arms=tuple(arms),
            prompts=RecordPrompts(filter=filter_values, limit=limit, keep_parameters=True),
            repetitions=repetitions,
            seed=seed,
        )
        return await self._experiments.create(plan, where)

    async def get(self, replay_id: str) -> Replay:
        """Read a replay. Raises NotFound."""
        experiment, progress = await self._experiments.get(replay_id)
        prompts = experiment.plan.prompts
        if not isinstance(prompts, RecordPrompts) or not prompts.keep_parameters:
            raise NotFound(
                "There is no replay with this id; it is an experiment of another kind.",
                param="replay_id",
            )
        trials = [each for each in await self._experiments.trials(replay_id) if not each.warmup]
        originals = await self._originals(trials)
        models = [arm.model for arm in experiment.plan.arms]
        pairs = tuple(
            pair_of(trial, originals[trial.prompt_id], models[trial.arm])
            for trial in trials
            if trial.prompt_id in originals
        )
        return Replay(
            experiment=experiment,
            progress=progress,
            arms=tuple(
                arm_of(number, model, [pair for pair in pairs if pair.arm == number])
                for number, model in enumerate(models)
            ),
            pairs=pairs,
            gone=len(trials) - len(pairs),
        )

    async def _originals(self, trials: Sequence[Trial]) -> dict[str, Original]:
        found: dict[str, Original] = {}
        for request_id in dict.fromkeys(trial.prompt_id for trial in trials):
            with contextlib.suppress(NotFound):
                found[request_id] = original_of(await self._records.record(request_id))
        return found


def original_of(record: RequestRecord) -> Original:
    """What a record says that a new answer is compared with."""
    text = record.completion_content
    return Original(
        request_id=record.request_id,
        model=served_id(record.model, record.variant),
        values=values_of(record)
        | {"prompt_tokens": record.prompt_tokens, "completion_tokens": record.completion_tokens},
        cold=record.cold,
        reused=bool(record.cached_tokens),
        text_sha256=None if text is None else hashlib.sha256(text.encode()).hexdigest(),
    )
