"""ExperimentService: creates experiments, runs them one after another, and continues them."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Any, Final

from service.core.errors import (
    Draining,
    FeatureDisabled,
    NotFound,
    Overloaded,
    StoreUnavailable,
)
from service.core.experiments.experiment import ENDED, Experiment, TrialCounts
from service.core.experiments.plan import Plan
from service.core.experiments.ports import ExperimentStore
from service.core.experiments.progress import Progress
from service.core.experiments.trial import Trial
from service.core.ids import new_experiment_id
from service.core.ports import RecordFilter
from service.serving.broadcast import Broadcast
from service.serving.experiments.planning import Planning
from service.serving.experiments.reporting import ReportFormat, Reporting
from service.serving.experiments.run import STORE_PAUSE_S, Run, progress_of
from service.serving.experiments.storing import Storing
from service.serving.experiments.trial_runner import TrialRunner
from service.serving.requests.chat import ChatService
from service.serving.scores.service import ScoreService

log = logging.getLogger(__name__)

#: Experiments that wait for their turn; more are refused.
MOST_QUEUED: Final = 100
_RETRY_S: Final = 60.0

Environment = Callable[[], Awaitable[Mapping[str, Any]]]


class ExperimentService:
    """Experiments of this service: one runs at a time, the others wait in order."""

    def __init__(
        self,
        chat: ChatService,
        store: ExperimentStore,
        planning: Planning,
        *,
        scores: ScoreService,
        environment: Environment,
        max_wait_s: float = 30.0,
        enabled: bool = True,
        wall_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._chat = chat
        self._storing = Storing(store)
        self._planning = planning
        self._scores = scores
        self._reporting = Reporting(chat.pool, chat.gate, planning)
        self._environment = environment
        self._max_wait_s = max_wait_s
        self._enabled = enabled
        self._wall_ns = wall_ns
        self._events = Broadcast[Progress]()
        self._queue: deque[Experiment] = deque()
        self._queued = asyncio.Event()
        self._run: Run | None = None
        self._running: asyncio.Task[None] | None = None
        self._cancelled: set[str] = set()
        self._worker: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Continue the experiments that had not ended when the service stopped."""
        self._queue.extend(await self._storing.call(self._storing.store.unfinished))
        if self._queue:
            log.info("%d experiments are continued", len(self._queue))
            self._queued.set()
        self._worker = asyncio.create_task(self._work(), name="experiments")

    async def stop(self) -> None:
        """Stop the run and every event stream; what has not ended goes on after the next start."""
        tasks = [task for task in (self._worker, self._running) if task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        self._events.close(Draining("The service is shutting down and sends no more events."))

    async def aclose(self) -> None:
        """Stop, and close the store's thread."""
        await self.stop()
        self._storing.close()

    # Clients

    async def create(self, plan: Plan, records: RecordFilter | None = None) -> Experiment:
        """Check a plan and queue it. *records* is its filter, where it has one.

        Raises:
            FeatureDisabled: the operator has switched experiments off.
            InvalidRequest, ModelNotFound: the plan cannot be run, with the field and the fix.
            Overloaded: too many wait already.
        """
        if not self._enabled:
            raise FeatureDisabled("Experiments are disabled (`compare.enabled`).")
        if len(self._queue) >= MOST_QUEUED:
            raise Overloaded(
                f"{MOST_QUEUED} experiments wait already; cancel one, or try again later.",
                retry_after_s=_RETRY_S,
            )
        chosen = await self._planning.records(plan, records)
        planned = await self._planning.trials(plan, chosen.record_ids)
        experiment = Experiment(
            id=new_experiment_id(),
            plan=plan,
            created_at_ns=self._wall_ns(),
            planned_trials=len(planned),
            record_ids=chosen.record_ids,
            unusable_records=chosen.unusable,
        )
        await self._storing.ask(self._storing.store.put, experiment)
        self._queue.append(experiment)
        self._queued.set()
        return experiment

    async def page(self, *, limit: int, before: str | None) -> list[tuple[Experiment, Progress]]:
        """Experiments, newest first, with their progress."""
        store = self._storing.store
        found = await self._storing.ask(store.page, limit=limit, before=before)
        counts = await self._storing.ask(store.counts, [each.id for each in found])
        return [(each, self._progress(each, counts[each.id])) for each in found]

    async def get(self, experiment_id: str) -> tuple[Experiment, Progress]:
        """An experiment and its progress. Raises NotFound."""
        store = self._storing.store
        found = await self._storing.ask(store.get, experiment_id)
        if found is None:
            raise NotFound("There is no experiment with this id.", param="experiment_id")
        counts = await self._storing.ask(store.counts, [experiment_id])
        return found, self._progress(found, counts[experiment_id])

    async def trials(self, experiment_id: str) -> tuple[Trial, ...]:
        """The trials that have ended, in the order of the run. Raises NotFound."""
        await self.get(experiment_id)
        return await self._storing.ask(self._storing.store.trials, experiment_id)

    async def report(self, experiment_id: str, form: ReportFormat) -> bytes:
        """The report on what has ended so far. Raises NotFound."""
        experiment, _ = await self.get(experiment_id)
        trials = await self._storing.ask(self._storing.store.trials, experiment_id)
        environment = experiment.environment or await self._environment()
        return await self._reporting.report(experiment, trials, environment, form)

    async def cancel(self, experiment_id: str) -> tuple[Experiment, Progress]:
        """End an experiment; what it has measured stays. One that has ended stays as it is."""
        found, _ = await self.get(experiment_id)
        if found.state not in ENDED:
            self._cancelled.add(experiment_id)
            if self._run is not None and self._run.experiment.id == experiment_id:
                running = self._running
                assert running is not None
                running.cancel()
                await asyncio.wait([running])
            else:
                self._queue = deque(each for each in self._queue if each.id != experiment_id)
                await self._end_cancelled(self._new_run(found, ()))
        return await self.get(experiment_id)

    async def events(self, experiment_id: str) -> AsyncGenerator[Progress]:
        """Yield the progress now, then each change, until the experiment has ended.

        Raises NotFound, or Overloaded for a reader too slow.
        """
        experiment, known = await self.get(experiment_id)
        if experiment.state in ENDED:
            yield known
            return
        async with aclosing(self._events.subscribe(lambda: [self._latest(known)])) as events:
            async for progress in events:
                if progress.experiment == experiment_id:
                    yield progress
                    if progress.state in ENDED:
                        return

    def _progress(self, experiment: Experiment, counts: TrialCounts) -> Progress:
        return self._latest(progress_of(experiment, counts))

    def _latest(self, known: Progress) -> Progress:
        """Of a running experiment, its progress at this moment."""
        running = self._run
        if running is None or running.experiment.id != known.experiment:
            return known
        return running.progress

    # Runs

    async def _work(self) -> None:
        """Run what is queued until the service shuts down."""
        while True:
            while not self._queue:
                self._queued.clear()
                await self._queued.wait()
            experiment = self._queue.popleft()
            self._run = self._new_run(experiment, ())
            self._running = asyncio.create_task(self._one(experiment), name=experiment.id)
            try:
                await asyncio.wait([self._running])
                failure = None if self._running.cancelled() else self._running.exception()
            finally:
                self._run = self._running = None
            if isinstance(failure, StoreUnavailable):
                log.warning("%s waits for the store: %s", experiment.id, failure)
                self._queue.appendleft(experiment)
                await asyncio.sleep(STORE_PAUSE_S)
            elif failure is not None:
                return  # the service shuts down

    async def _one(self, experiment: Experiment) -> None:
        """Run one experiment to its end. Raises Draining if the service's end comes first."""
        try:
            await self._to_its_end(experiment)
        except asyncio.CancelledError:
            if experiment.id not in self._cancelled or self._run is None:
                raise  # the service closes
            await self._end_cancelled(self._run)
        except (Draining, StoreUnavailable):
            raise  # it goes on after the next start
        except Exception:  # a bug ends one experiment, not all
            log.exception("experiment %s failed", experiment.id)
            assert self._run is not None
            await self._run.enter(
                "failed", ended_at_ns=self._wall_ns(), error="The service had an error."
            )

    async def _to_its_end(self, experiment: Experiment) -> None:
        plan = experiment.plan
        planned = await self._planning.trials(plan, experiment.record_ids)
        prompts = await self._planning.prompts(plan, experiment.record_ids)
        run = self._run = self._new_run(experiment, planned)
        if experiment.state == "queued":
            await run.enter("running", started_at_ns=self._wall_ns())
        else:
            await run.enter("running", continued=experiment.continued + 1)
        runner = TrialRunner(
            self._chat, self._scores, run.experiment, prompts, max_wait_s=self._max_wait_s
        )
        await run.trials(runner)
        await run.enter(
            "done", ended_at_ns=self._wall_ns(), environment=dict(await self._environment())
        )

    async def _end_cancelled(self, run: Run) -> None:
        counts = await self._storing.call(self._storing.store.counts, [run.experiment.id])
        run.counts = counts[run.experiment.id]
        await run.enter(
            "cancelled", ended_at_ns=self._wall_ns(), environment=dict(await self._environment())
        )
        self._cancelled.discard(run.experiment.id)

    def _new_run(self, experiment: Experiment, planned: tuple[Trial, ...]) -> Run:
        return Run(
            experiment,
            planned,
            storing=self._storing,
            pool=self._chat.pool,
            gate=self._chat.gate,
            publish=self._events.publish,
        )
