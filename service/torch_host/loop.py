"""EngineLoop: one thread owns all models of a device and steps them in turn."""

import logging
import math
import queue
import time
from collections.abc import Callable
from collections.abc import Sequence as Row
from functools import partial
from itertools import zip_longest
from typing import Final, TypeVar

import torch
from torch import Tensor

from service.core.errors import EngineFailed, TriptychError
from service.core.events import EngineEvent
from service.engines.torch.protocol.last_step import LastStep
from service.engines.torch.protocol.messages import (
    Events,
    FromHost,
    Heartbeat,
    PromptScores,
    RequestFailed,
    Unloaded,
)
from service.torch_host.faults import fault_message, log_fault
from service.torch_host.heap import Heap
from service.torch_host.memory_reports import MemoryReports
from service.torch_host.prefix.prefixes import Prefixes
from service.torch_host.sampling.choice import Choice, choose, score
from service.torch_host.scheduling.scheduler import Decode, Prefill, Scheduler
from service.torch_host.sequence import Sequence
from service.torch_host.slot_model import SlotModel

SCORED_AT_ONCE: Final = 2**21
"""Most logits whose log-probabilities are computed at once: 8 MiB of float32."""

FRAME_SCORES: Final = 2**14
"""Most log-probabilities that one frame carries; each takes less than a kilobyte."""

Result = TypeVar("Result")

log = logging.getLogger(__name__)


class EngineLoop:
    """Runs requests step by step and emits the events of each step.

    The public methods except `run` and `step` may be called from any thread: they queue a command
    that the loop runs before its next step. A request's own error ends that request only.
    """

    def __init__(
        self, emit: Callable[[FromHost], None], *, last_step: LastStep | None = None
    ) -> None:
        self._emit = emit
        self._last_step = last_step
        self._turns = 0
        self._resting = False
        self._commands: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._scheduler = Scheduler()
        self._models: dict[str, SlotModel] = {}
        self._sequences: dict[str, Sequence] = {}
        self._events: list[tuple[str, EngineEvent]] = []
        self._prefixes = Prefixes()
        self._memory = MemoryReports(self._models, self._scheduler.step_times, self._prefixes, emit)
        self._heap = Heap()
        self._rested = True
        """Whether the loop was idle before this step, whose memory is then reported at once."""
        self._stopping = False

    def __repr__(self) -> str:
        return f"<EngineLoop {len(self._models)} models, {len(self._sequences)} requests>"

    def add_model(
        self, model: SlotModel, *, chunk_tokens: int, max_itl_ms: float = math.inf
    ) -> None:
        """Add a loaded model."""
        self._commands.put(partial(self._add_model, model, chunk_tokens, max_itl_ms))

    def remove_model(self, model_id: str) -> None:
        """Fail a model's requests and free its memory; emits Unloaded."""
        self._commands.put(partial(self._remove_model, model_id))

    def submit(self, sequence: Sequence) -> None:
        """Queue a request."""
        self._commands.put(partial(self._submit, sequence))

    def cancel(self, request_id: str) -> None:
        """Drop a request and free its slot before the next step; unknown ids are ignored."""
        self._commands.put(partial(self._cancel, request_id))

    def limit_prefix_cache(self, max_bytes: int) -> None:
        """Set the cap of the prefix cache, 0 at first; what exceeds it is evicted."""
        self._commands.put(partial(self._prefixes.cache.limit, max_bytes))

    def stop(self) -> None:
        """Make `run` return after its current step."""
        self._commands.put(self._stop)

    @property
    def heartbeat(self) -> Heartbeat:
        """Progress of `run`."""
        return Heartbeat(self._turns, self._resting)

    def run(self) -> None:
        """Step until `stop`; sleeps while there is nothing to do."""
        with torch.inference_mode():
            while not self._stopping:
                self._turns += 1
                if not self.step() and not self._stopping:
                    self._memory.emit_due(at_once=True)
                    self._rested = True
                    self._wait()

    def _wait(self) -> None:
        """Sleep until a command comes, and run it, or until the heap is due to be trimmed."""
        self._note(())
        self._resting = True
        try:
            command = self._commands.get(timeout=self._heap.due_in_s)
        except queue.Empty:
            self._resting = False
            self._heap.tidy()
        else:
            self._resting = False
            command()

    def _note(self, request_ids: Row[str]) -> None:
        if self._last_step is not None:
            self._last_step.note(request_ids)

    def step(self) -> bool:
        """Run all commands, then one step; False if there was none to run."""
        while not self._commands.empty():
            self._commands.get()()
        begin_ns = time.monotonic_ns()
        step = self._scheduler.next(begin_ns)
        if step is None or self._stopping:
            return False
        match step:
            case Prefill():
                self._note((step.request_id,))
                step = self._prefill(step, begin_ns)
            case Decode():
                self._note(step.request_ids)
                self._decode(step, begin_ns)
        end_ns = time.monotonic_ns()
        spent_ns = end_ns - begin_ns - self._prefixes.take_copied_ns()
        self._scheduler.spent(step, spent_ns, end_ns)
        if self._events:
            self._emit(Events(tuple(self._events)))
            self._events.clear()
        self._memory.emit_due(at_once=self._rested)
        self._rested = False
        self._heap.tidy()
        return True

    def _prefill(self, step: Prefill, begin_ns: int) -> Prefill:
        """Take the step, or what of it is left to do behind a restored prefix; return that."""
        sequence, model = self._sequences[step.request_id], self._models[step.model_id]
        if sequence.slot is None:
            sequence.slot = model.take(
                prompt_tokens=len(sequence.prompt_ids),
                most_tokens=len(sequence.prompt_ids) + sequence.limit_tokens,
            )
            assert sequence.slot is not None  # the scheduler counts slots
            self._memory.changed(step.model_id)
            step = self._scheduler.skip(step, self._prefixes.begin(sequence, model))
        sequence.scheduled(begin_ns, others=0)
        call = partial(self._prefill_chunk, sequence, model, step.tokens)
        logits = self._attempt([sequence], "a prefill", call)
        if logits is not None and sequence.prefilled:
            self._advance([sequence], logits.unsqueeze(0))
        return step

    def _prefill_chunk(self, sequence: Sequence, model: SlotModel, tokens: int) -> Tensor:
        """Prefill one chunk and score it if asked; logits of its last token, (vocabulary,)."""
        start, scoring = sequence.read_tokens, sequence.scoring
        logits = self._prefixes.prefill(sequence, model, tokens, every_logit=scoring)
        if scoring:
            self._score(sequence, logits, sequence.to_read[start + 1 : start + 1 + tokens])
            logits = logits[-1]
        started = sequence.started()
        if started is not None:
            self._events.append((sequence.request_id, started))
        return logits

    def _score(self, sequence: Sequence, logits: Tensor, targets: Row[int]) -> None:
        """Emit the log-probabilities of prompt tokens, which these logits predict."""
        if not torch.isfinite(logits.amax()):
            raise _not_finite()
        alternatives = sequence.sampling.logprobs or 0
        rows = min(SCORED_AT_ONCE // logits.shape[-1], FRAME_SCORES // (1 + alternatives))
        rows = max(1, rows)
        for first in range(0, max(1, len(targets)), rows):
            some = targets[first : first + rows]
            choices = score(logits[first : first + len(some)], some, alternatives)
            self._emit(PromptScores(sequence.request_id, sequence.score_prompt(choices)))

    def _decode(self, step: Decode, begin_ns: int) -> None:
        model = self._models[step.model_id]
        sequences = [self._sequences[request_id] for request_id in step.request_ids]
        for sequence in sequences:
            sequence.scheduled(begin_ns, others=len(sequences) - 1)
        slots = [sequence.slot for sequence in sequences if sequence.slot is not None]
        last_tokens = [sequence.token_ids[-1] for sequence in sequences]
        logits = self._attempt(
            sequences, "a decode step", partial(model.decode, slots, last_tokens)
        )
        if logits is not None:
            self._advance(sequences, logits)

    def _attempt(
        self, sequences: Row[Sequence], doing: str, call: Callable[[], Result]
    ) -> Result | None:
        """Return the result of a call; None if it failed, and these requests with it.

        A batch whose decode failed is lost as a whole: its states may be half advanced.
        """
        try:
            return call()
        except Exception as error:  # noqa: BLE001  modelling code may raise anything, and the loop serves others
            for sequence in sequences:
                self._fail(sequence, doing, error)
            return None

    def _advance(self, sequences: Row[Sequence], logits: Tensor) -> None:
        """Sample a token for each sequence that wants one; end those that are done."""
        samplers = [sequence.sampler for sequence in sequences if not sequence.finish_reason]
        choices: list[Choice | None] | None = []
        if samplers:
            choices = self._attempt(sequences, "sampling", partial(choose, logits, samplers))
        if choices is None:
            return
        at_ns = time.monotonic_ns()
        for sequence, choice in zip_longest(sequences, choices):
            if choice is None and not sequence.finish_reason:
                self._fail(sequence, "sampling", _not_finite())
            else:
                append = partial(self._append, sequence, choice, at_ns)
                self._attempt([sequence], "detokenization", append)

    def _append(self, sequence: Sequence, choice: Choice | None, at_ns: int) -> None:
        """Take a sampled token; end the sequence, or restart it, if that is due."""
        if choice is not None:
            self._events.append((sequence.request_id, sequence.take(choice, at_ns)))
        model = self._models[sequence.model_id]
        assert sequence.slot is not None
        if sequence.finish_reason:
            self._finish(sequence, model)
        elif model.must_restart(sequence.slot):
            sequence.restart()
            model.restart(sequence.slot, sequence_tokens=len(sequence.to_read))
            self._scheduler.restart(sequence.model_id, sequence.request_id, len(sequence.to_read))

    def _finish(self, sequence: Sequence, model: SlotModel) -> None:
        assert sequence.slot is not None
        self._prefixes.finish(sequence, model)
        finished = sequence.finished(state=model.state_bytes(sequence.slot), build=model.build)
        self._events.append((sequence.request_id, finished))
        self._retire(sequence)

    def _fail(self, sequence: Sequence, doing: str, error: Exception) -> None:
        if not isinstance(error, TriptychError):
            log_fault(log, doing, error, model_id=sequence.model_id, request_id=sequence.request_id)
            error = EngineFailed(fault_message(doing, error))
        self._retire(sequence)
        self._emit(
            RequestFailed(
                request_id=sequence.request_id,
                code=error.code,
                message=str(error),
                param=error.param,
            )
        )

    def _retire(self, sequence: Sequence) -> None:
        del self._sequences[sequence.request_id]
        self._scheduler.drop(sequence.model_id, sequence.request_id)
        if sequence.slot is not None:
            self._models[sequence.model_id].release(sequence.slot)
            self._memory.changed(sequence.model_id)
        if self._scheduler.idle(sequence.model_id):
            self._heap.rests(sequence.model_id)

    def _add_model(self, model: SlotModel, chunk_tokens: int, max_itl_ms: float) -> None:
        model_id = model.resolved.id
        self._models[model_id] = model
        self._scheduler.add_model(
            model_id,
            slots=model.slots_total,
            chunk_tokens=chunk_tokens,
            max_itl_ns=max_itl_ms * 1e6,
        )
        self._memory.changed(model_id)

    def _remove_model(self, model_id: str) -> None:
        for sequence in list(self._sequences.values()):
            if sequence.model_id == model_id:
                self._fail(
                    sequence, "unloading", EngineFailed(f"The model {model_id} was unloaded.")
                )
        model = self._models.pop(model_id, None)
        if model is not None:
            self._scheduler.remove_model(model_id)
            self._memory.forget(model_id)
            self._prefixes.forget(model_id)
            model.close()
            del model
            self._heap.release()
        self._emit(Unloaded(model_id))

    def _submit(self, sequence: Sequence) -> None:
        model = self._models.get(sequence.model_id)
        if model is None:
            error = EngineFailed(f"The model {sequence.model_id} was unloaded.")
            self._emit(
                RequestFailed(request_id=sequence.request_id, code=error.code, message=str(error))
            )
            return
        self._heap.works(sequence.model_id)
        self._sequences[sequence.request_id] = sequence
        self._scheduler.submit(
            sequence.model_id,
            sequence.request_id,
            len(sequence.prompt_ids),
            chunk_tokens=model.scored_chunk_tokens if sequence.scores_prompt else None,
        )

    def _cancel(self, request_id: str) -> None:
        sequence = self._sequences.get(request_id)
        if sequence is not None:
            self._retire(sequence)

    def _stop(self) -> None:
        self._stopping = True


def _not_finite() -> EngineFailed:
    return EngineFailed("The model produced non-finite logits; the answer ends here.")
