"""Trial runner: one arm on one prompt, as an ordinary request that runs while nothing else does."""

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from service.core.chat import ChatPrompt, ChatRequest, Message, Prompt, Sampling
from service.core.errors import Draining, MachineBusy, NotFound, TriptychError, Unavailable
from service.core.events import Delta, Finished
from service.core.experiments.experiment import Experiment
from service.core.experiments.plan import RecordPrompts, SyntheticPrompts
from service.core.experiments.progress import Wait
from service.core.experiments.texts import synthetic_text
from service.core.experiments.trial import Trial
from service.core.ids import new_request_id
from service.core.probes import graded
from service.serving.experiments.measured import measured
from service.serving.experiments.probes import planned_probes
from service.serving.experiments.prompts import GivenPrompt, SyntheticTokens, text_seed
from service.serving.experiments.sampling import kept_sampling, sampling_of
from service.serving.experiments.scoring import Scoring
from service.serving.requests.chat import ChatService
from service.serving.scores.service import ScoreService

#: How often a trial asks for a machine of its own before it runs beside others.
QUIET_ATTEMPTS: Final = 3
#: How often a trial is repeated whose model cannot answer for the moment.
MODEL_ATTEMPTS: Final = 3
LONGEST_PAUSE_S: Final = 30.0

Waiting = Callable[[Wait | None], None]


class TrialRunner:
    """Runs the trials of one experiment, one at a time."""

    def __init__(
        self,
        chat: ChatService,
        scores: ScoreService,
        experiment: Experiment,
        prompts: Mapping[str, GivenPrompt],
        *,
        max_wait_s: float,
        clock_ns: Callable[[], int] = time.monotonic_ns,
        wall_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._chat = chat
        self._experiment = experiment
        self._plan = experiment.plan
        self._prompts = prompts
        self._max_wait_s = max_wait_s
        self._clock_ns = clock_ns
        self._wall_ns = wall_ns
        self._probes = planned_probes(experiment.plan)
        self._scoring = Scoring(scores, chat.pool, experiment)
        self._synthetic = SyntheticTokens(chat.pool, chat.gate, experiment.plan)
        # The conversation of the unit that runs, with the arm's own answers.
        self._said: tuple[Message, ...] = ()
        self._broken_off: str | None = None

    async def run(self, trial: Trial, waiting: Waiting) -> Trial:
        """The trial as done, or as failed with its reason. Raises Draining."""
        try:
            return await self._repeated(trial, waiting)
        except Draining:
            raise
        except TriptychError as error:
            if trial.turn is not None and self._broken_off is None:
                self._broken_off = f"An earlier turn failed: {error}"
            return msgspec.structs.replace(trial, state="failed", error=str(error))

    async def _repeated(self, trial: Trial, waiting: Waiting) -> Trial:
        """Run it, again where the machine was busy or its model could not answer for the moment."""
        quiet_attempts, model_attempts = QUIET_ATTEMPTS, MODEL_ATTEMPTS
        while True:
            within_s = self._max_wait_s if quiet_attempts else None
            try:
                return await self._once(trial, within_s)
            except MachineBusy:
                quiet_attempts -= 1
            except Draining:
                raise
            except Unavailable as error:
                model_attempts -= 1
                if error.retry_after_s is None or not model_attempts:
                    raise
                waiting("model")
                await asyncio.sleep(min(error.retry_after_s, LONGEST_PAUSE_S))
                waiting(None)

    async def _once(self, trial: Trial, isolated_within_s: float | None) -> Trial:
        if trial.measure == "score":
            return await self._scoring.run(trial, self._given(trial).text)
        request = await self._request(trial)
        async with self._chat.open(request, isolated_within_s=isolated_within_s) as answer:
            events = [event async for event in answer]
        text = "".join(event.text for event in events if isinstance(event, Delta | Finished))
        if trial.turn is not None:
            assert isinstance(request.prompt, ChatPrompt)
            said = Message(role="assistant", content=text)
            self._said = (*request.prompt.messages, said)
        done = measured(trial, answer.record, text=text, isolation=answer.isolation)
        if trial.probe is None:
            return done
        right = graded(self._probes[trial.prompt_id].item, text)
        return msgspec.structs.replace(done, values={**done.values, trial.probe: float(right)})

    async def _request(self, trial: Trial) -> ChatRequest:
        prompt, sampling = await self._asked(trial)
        experiment_id = self._experiment.id
        conversation = f"{experiment_id}/{trial.arm}/{trial.prompt_id}" if trial.turn else None
        return ChatRequest(
            request_id=new_request_id(),
            model=self._plan.arms[trial.arm].model,
            prompt=prompt,
            sampling=sampling,
            endpoint="experiment",
            arm=trial.arm,
            replay_of=self._replayed(trial),
            experiment_id=experiment_id,
            # A conversation continues its own turns alone; nothing else may be quick by chance.
            prefix_cache=conversation is not None,
            cache_salt=conversation,
            accepted_ns=self._clock_ns(),
            accepted_at_ns=self._wall_ns(),
        )

    async def _asked(self, trial: Trial) -> tuple[Prompt, Sampling]:
        """Prompt and sampling of a trial."""
        if trial.turn is not None:
            conversation = self._plan.conversation
            return self._turn(trial), self._sampling(trial, conversation.new_tokens, exact=True)
        if trial.context_tokens is not None:
            assert isinstance(self._plan.prompts, SyntheticPrompts)
            model = self._plan.arms[trial.arm].model
            prompt = await self._synthetic.prompt(model, trial.prompt_id, trial.context_tokens)
            return prompt, self._sampling(trial, self._plan.prompts.new_tokens, exact=True)
        if trial.probe is not None:
            item = self._probes[trial.prompt_id].item
            return ChatPrompt(item.messages), self._sampling(trial, item.max_tokens, exact=False)
        given = self._given(trial)
        if given.sampling is not None:
            arm = self._plan.arms[trial.arm]
            return given.prompt, kept_sampling(
                arm, trial.arm, given.sampling, max_tokens=given.new_tokens
            )
        return given.prompt, self._sampling(trial, given.new_tokens, exact=False)

    def _replayed(self, trial: Trial) -> str | None:
        """The recorded request whose conversation the trial repeats."""
        recorded = isinstance(self._plan.prompts, RecordPrompts)
        return trial.prompt_id if recorded and trial.prompt_id in self._prompts else None

    def _given(self, trial: Trial) -> GivenPrompt:
        given = self._prompts.get(trial.prompt_id)
        if given is None:
            raise NotFound(f"The prompt of the record {trial.prompt_id} is not stored any more.")
        return given

    def _turn(self, trial: Trial) -> ChatPrompt:
        """All that was said in the arm's conversation, and the user's next words."""
        if trial.turn == 1:
            self._said, self._broken_off = (), None
        if self._broken_off is not None:
            raise NotFound(self._broken_off)
        words = self._plan.conversation.turn_words
        seed = f"{text_seed(self._plan, trial.prompt_id)}:{trial.turn}"
        asked = Message(role="user", content=synthetic_text(seed, words))
        return ChatPrompt((*self._said, asked))

    def _sampling(self, trial: Trial, max_tokens: int | None, *, exact: bool) -> Sampling:
        return sampling_of(
            self._plan.arms[trial.arm],
            trial.arm,
            seed=self._plan.seed,
            max_tokens=max_tokens,
            exact=exact,
        )
