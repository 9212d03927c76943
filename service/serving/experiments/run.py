"""Run of an experiment: its trials in order, each stored as it ends, pausing for other requests."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Final

from msgspec import structs

from service.core.errors import Draining, StoreUnavailable
from service.core.experiments.experiment import Experiment, ExperimentState, TrialCounts
from service.core.experiments.progress import Progress, Wait
from service.core.experiments.trial import Trial
from service.serving.experiments.storing import Storing
from service.serving.experiments.trial_runner import TrialRunner
from service.serving.gate import Gate
from service.serving.models.pool import Pool

log = logging.getLogger(__name__)

#: How often a paused run looks whether others still have requests.
POLL_S: Final = 0.1
#: How long nobody else may have had a request before a paused run goes on.
QUIET_S: Final = 0.5
STORE_PAUSE_S: Final = 2.0

Publish = Callable[[Progress], None]


class Run:
    """One experiment under way."""

    def __init__(
        self,
        experiment: Experiment,
        planned: Sequence[Trial],
        *,
        storing: Storing,
        pool: Pool,
        gate: Gate,
        publish: Publish,
    ) -> None:
        self.experiment = experiment
        self.counts = TrialCounts()
        self._planned = planned
        self._storing = storing
        self._pool = pool
        self._gate = gate
        self._publish = publish
        self._waits_for: Wait | None = None

    @property
    def progress(self) -> Progress:
        """How far it is."""
        return progress_of(self.experiment, self.counts, self._waits_for)

    async def trials(self, runner: TrialRunner) -> None:
        """Run what has not ended yet. Raises Draining when the service shuts down."""
        ended = await self._storing.call(self._storing.store.trials, self.experiment.id)
        done = {trial.number for trial in ended}
        self.counts = TrialCounts(
            ended=len(done), failed=sum(trial.state == "failed" for trial in ended)
        )
        for trial in left(self._planned, done):
            if self.experiment.plan.pause_when_busy:
                await self._pause_while_busy()
            result = await runner.run(trial, self._wait_for)
            again = trial.number in done
            await self._write(result)
            failed = self.counts.failed + (result.state == "failed" and not again)
            self.counts = TrialCounts(ended=self.counts.ended + (not again), failed=failed)
            self._publish(structs.replace(self.progress, trial=result))

    async def enter(self, state: ExperimentState, **changes: object) -> None:
        """Store and publish a new state."""
        experiment = structs.replace(self.experiment, state=state, **changes)
        await self._storing.call(self._storing.store.put, experiment)
        self.experiment = experiment
        self._waits_for = None
        self._publish(self.progress)

    async def _pause_while_busy(self) -> None:
        """Wait until requests, loads and hashing of others have been over for a moment."""
        loop = asyncio.get_running_loop()
        if not self._busy():
            return
        quiet_since_s = None
        while quiet_since_s is None or loop.time() - quiet_since_s < QUIET_S:
            self._check_draining()
            self._wait_for("busy")
            if self._busy():
                quiet_since_s = None
            elif quiet_since_s is None:
                quiet_since_s = loop.time()
            await asyncio.sleep(POLL_S)
        self._wait_for(None)

    def _busy(self) -> bool:
        return bool(self._pool.requests) or self._gate.works_in_background

    def _check_draining(self) -> None:
        if self._pool.draining:
            raise Draining("The service is shutting down; the experiment goes on after its start.")

    async def _write(self, trial: Trial) -> None:
        """Store a trial, however long the store needs to come back: it was expensive."""
        while True:
            try:
                await self._storing.call(self._storing.store.write_trial, self.experiment.id, trial)
            except StoreUnavailable as error:
                log.warning("a trial of %s cannot be written yet: %s", self.experiment.id, error)
                self._check_draining()
                self._wait_for("store")
                await asyncio.sleep(STORE_PAUSE_S)
            else:
                self._wait_for(None)
                return

    def _wait_for(self, what: Wait | None) -> None:
        if what != self._waits_for:
            self._waits_for = what
            self._publish(self.progress)


def progress_of(
    experiment: Experiment, counts: TrialCounts, waits_for: Wait | None = None
) -> Progress:
    """Progress of an experiment whose ended trials were counted."""
    return Progress(
        experiment=experiment.id,
        state=experiment.state,
        planned=experiment.planned_trials,
        done=counts.ended,
        failed=counts.failed,
        waits_for=waits_for,
    )


def left(planned: Sequence[Trial], done: set[int]) -> list[Trial]:
    """Trials that have to run.

    A run that goes on is warmed up again, since its models were loaded anew. A conversation that
    was broken off begins again at its first turn: what was said in it is not stored.
    """
    begin = next((number for number, _ in enumerate(planned) if number not in done), len(planned))
    while begin < len(planned) and (planned[begin].turn or 1) > 1:
        begin -= 1
    rest = list(planned[begin:])
    again = planned[:begin] if rest else ()
    return [trial for trial in again if trial.warmup] + rest
