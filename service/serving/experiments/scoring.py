"""Scored trials: the bits per byte that one arm gives one text."""

import hashlib

import msgspec

from service.core.errors import EngineFailed
from service.core.experiments.experiment import Experiment
from service.core.experiments.trial import Trial
from service.core.ids import new_score_id
from service.serving.models.pool import Pool
from service.serving.scores.service import ScoreRequest, ScoreService


class Scoring:
    """Scores texts for one experiment, in windows of the same size for all arms."""

    def __init__(self, scores: ScoreService, pool: Pool, experiment: Experiment) -> None:
        self._scores = scores
        self._experiment = experiment
        arms = experiment.plan.arms
        self._window_tokens = min(
            (
                pool.models[arm.model].entry.spec.context_tokens
                for arm in arms
                if arm.model in pool.models
            ),
            default=None,
        )

    async def run(self, trial: Trial, text: str) -> Trial:
        """The trial as done; scoring disturbs nothing and need not be alone. Raises as `score`."""
        model = self._experiment.plan.arms[trial.arm].model
        scores = await self._scores.score(
            ScoreRequest(
                score_id=new_score_id(),
                models=(model,),
                texts=(text,),
                window_tokens=self._window_tokens,
                experiment_id=self._experiment.id,
            )
        )
        found = scores.models[0]
        if found.total is None:
            raise EngineFailed(found.error.message if found.error else "the text was not scored")
        return msgspec.structs.replace(
            trial,
            state="done",
            request_id=found.total.request_ids[0],
            values={
                "bits_per_byte": found.total.bits_per_byte,
                "log_probability": found.total.log_probability,
            },
            prompt_tokens=found.total.tokens,
            text_sha256=hashlib.sha256(text.encode()).hexdigest(),
        )
