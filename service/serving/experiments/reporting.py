"""Reporting: an experiment's report, from what is stored, built beside the event loop."""

import asyncio
from collections.abc import Mapping
from typing import Final, Literal

from service.core.experiments.experiment import Experiment
from service.core.experiments.plan import Plan, SyntheticPrompts
from service.core.experiments.texts import synthetic_text
from service.core.experiments.trial import Trial
from service.serving.experiments.planning import Planning
from service.serving.experiments.prediction import predicted_bytes
from service.serving.experiments.prompts import text_seed
from service.serving.experiments.report import (
    build_report,
    render_html,
    render_json,
    render_markdown,
)
from service.serving.gate import Gate
from service.serving.models.pool import Pool

ReportFormat = Literal["json", "md", "html"]

#: Words of a synthetic text that are shown where arms differ on it.
_SHOWN_WORDS: Final = 40


class Reporting:
    """Builds one report at a time: a large one takes a core for seconds."""

    def __init__(self, pool: Pool, gate: Gate, planning: Planning) -> None:
        self._pool = pool
        self._gate = gate
        self._planning = planning
        self._turn = asyncio.Lock()

    async def report(
        self,
        experiment: Experiment,
        trials: tuple[Trial, ...],
        environment: Mapping[str, object],
        form: ReportFormat,
    ) -> bytes:
        """The report on what has ended so far. It never runs beside an isolated trial."""
        texts = await self._texts(experiment, trials)
        async with self._turn, self._gate.background():
            return await asyncio.to_thread(
                self._build, experiment, trials, environment, texts, form
            )

    async def _texts(self, experiment: Experiment, trials: tuple[Trial, ...]) -> dict[str, str]:
        """Texts of prompts by id."""
        plan = experiment.plan
        if isinstance(plan.prompts, SyntheticPrompts):
            ids = {trial.prompt_id for trial in trials if trial.context_tokens is not None}
            return {each: _beginning(plan, each) for each in ids}
        given = await self._planning.prompts(plan, experiment.record_ids)
        return {prompt.id: prompt.text for prompt in given.values()}

    def _build(
        self,
        experiment: Experiment,
        trials: tuple[Trial, ...],
        environment: Mapping[str, object],
        texts: Mapping[str, str],
        form: ReportFormat,
    ) -> bytes:
        report = build_report(
            experiment.plan,
            trials,
            environment,
            prompts=texts,
            predicted_bytes=predicted_bytes(self._pool, experiment.plan, trials),
        )
        match form:
            case "json":
                return render_json(report)
            case "md":
                return render_markdown(report).encode()
            case "html":
                return render_html(report).encode()


def _beginning(plan: Plan, prompt_id: str) -> str:
    return f"{synthetic_text(text_seed(plan, prompt_id), _SHOWN_WORDS)} …"
