"""The engine loop: one thread owns all models of a device and steps them in turn."""

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
    DeviceMemory,
    Events,
    FromHost,
    Heartbeat,
    MemoryReport,
    RequestFailed,
    StepTimes,
    Unloaded,
)
from service.torch_host.heap import Heap
from service.torch_host.sampling import choose, score
from service.torch_host.scheduler import Decode, Prefill, Scheduler
from service.torch_host.sequence import Sequence
from service.torch_host.slot_model import SlotModel

SCORED_LOGITS: Final = 2**23
"""Most logits that one chunk of a scored prompt may have: 32 MiB of float32."""

MEMORY_REPORT_NS: Final = 250_000_000
"""Shortest time between two reports of one model's memory."""

Result = TypeVar("Result")

log = logging.getLogger(__name__)


class EngineLoop:
    """Runs requests step by step and emits what each step produced.

    The public methods except `run` and `step` may be called from any thread: they leave an order
    that the loop takes before its next step. A request's own error ends that request only.
    """

    def __init__(
        self, emit: Callable[[FromHost], None], *, last_step: LastStep | None = None
    ) -> None:
        self._emit = emit
        self._last_step = last_step
        self._turns = 0
        self._resting = False
        self._orders: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._scheduler = Scheduler()
        self._models: dict[str, SlotModel] = {}
        self._sequences: dict[str, Sequence] = {}
        self._events: list[tuple[str, EngineEvent]] = []
        self._memory_changed: set[str] = set()
        self._memory_reported_ns: dict[str, int] = {}
        self._heap = Heap()
        self._rested = True
        """Whether there was nothing to do before this step: its memory is reported at once."""
        self._stopping = False

    def __repr__(self) -> str:
        """Show the counts."""
        return f"<EngineLoop {len(self._models)} models, {len(self._sequences)} requests>"

    def add_model(
        self, model: SlotModel, *, chunk_tokens: int, max_itl_ms: float = math.inf
    ) -> None:
        """Take a loaded model in."""
        self._orders.put(partial(self._add_model, model, chunk_tokens, max_itl_ms))

    def remove_model(self, model_id: str) -> None:
        """Fail a model's requests and free its memory; emits Unloaded."""
        self._orders.put(partial(self._remove_model, model_id))

    def submit(self, sequence: Sequence) -> None:
        """Queue a request."""
        self._orders.put(partial(self._submit, sequence))

    def cancel(self, request_id: str) -> None:
        """Drop a request and free its slot before the next step; unknown ids are ignored."""
        self._orders.put(partial(self._cancel, request_id))

    def stop(self) -> None:
        """Make `run` return after the step that it is in."""
        self._orders.put(self._stop)

    @property
    def heartbeat(self) -> Heartbeat:
        """How far `run` has come."""
        return Heartbeat(self._turns, self._resting)

    def run(self) -> None:
        """Step until `stop`; sleeps while there is nothing to do."""
        with torch.inference_mode():
            while not self._stopping:
                self._turns += 1
                if not self.step() and not self._stopping:
                    self._report_memory(at_once=True)
                    self._rested = True
                    self._wait()

    def _wait(self) -> None:
        """Sleep until there is an order, and take it, or until there is memory to give back."""
        self._note(())
        self._resting = True
        try:
            order = self._orders.get(timeout=self._heap.due_in_s)
        except queue.Empty:
            self._resting = False
            self._heap.tidy()
        else:
            self._resting = False
            order()

    def _note(self, request_ids: Row[str]) -> None:
        if self._last_step is not None:
            self._last_step.note(request_ids)

    def step(self) -> bool:
        """Take all orders, then run one step; False if there was none to run."""
        while not self._orders.empty():
            self._orders.get()()
        begin_ns = time.monotonic_ns()
        step = self._scheduler.next(begin_ns)
        if step is None or self._stopping:
            return False
        match step:
            case Prefill():
                self._note((step.request_id,))
                self._prefill(step, begin_ns)
            case Decode():
                self._note(step.request_ids)
                self._decode(step, begin_ns)
        end_ns = time.monotonic_ns()
        self._scheduler.spent(step, end_ns - begin_ns, end_ns)
        if self._events:
            self._emit(Events(tuple(self._events)))
            self._events.clear()
        self._report_memory(at_once=self._rested)
        self._rested = False
        self._heap.tidy()
        return True

    def _prefill(self, step: Prefill, begin_ns: int) -> None:
        sequence, model = self._sequences[step.request_id], self._models[step.model_id]
        if sequence.slot is None:
            sequence.slot = model.take()
            assert sequence.slot is not None  # the scheduler counts slots
            self._memory_changed.add(step.model_id)
        sequence.scheduled(begin_ns, others=0)
        logits = self._attempt([sequence], partial(self._read, sequence, model, step.tokens))
        if logits is None:
            return
        started = sequence.started()
        if started is not None:
            self._events.append((sequence.request_id, started))
        if sequence.prefilled:
            self._advance([sequence], logits.unsqueeze(0))

    def _read(self, sequence: Sequence, model: SlotModel, tokens: int) -> Tensor:
        """Prefill one chunk and score it if asked; logits of its last token, (vocabulary,)."""
        assert sequence.slot is not None
        start = sequence.read_tokens
        chunk = sequence.prompt_ids[start : start + tokens]
        logits = model.prefill(sequence.slot, chunk, every_logit=sequence.scores_prompt)
        sequence.read_tokens += tokens
        if not sequence.scores_prompt:
            return logits
        if not torch.isfinite(logits.amax()):
            raise _not_finite()
        targets = sequence.prompt_ids[start + 1 : start + 1 + tokens]
        alternatives = sequence.sampling.logprobs or 0
        sequence.score_prompt(score(logits[: len(targets)], targets, alternatives))
        return logits[-1]

    def _decode(self, step: Decode, begin_ns: int) -> None:
        model = self._models[step.model_id]
        sequences = [self._sequences[request_id] for request_id in step.request_ids]
        for sequence in sequences:
            sequence.scheduled(begin_ns, others=len(sequences) - 1)
        slots = [sequence.slot for sequence in sequences if sequence.slot is not None]
        last_tokens = [sequence.token_ids[-1] for sequence in sequences]
        logits = self._attempt(sequences, partial(model.decode, slots, last_tokens))
        if logits is not None:
            self._advance(sequences, logits)

    def _attempt(self, sequences: Row[Sequence], call: Callable[[], Result]) -> Result | None:
        """What a call of the model gives; None if it failed, and these requests with it.

        A batch whose decode failed is lost as a whole: its states may be half advanced.
        """
        try:
            return call()
        except Exception as error:  # noqa: BLE001  modelling code may raise anything, and the loop serves others
            for sequence in sequences:
                self._fail(sequence, error)
            return None

    def _advance(self, sequences: Row[Sequence], logits: Tensor) -> None:
        """Sample a token for each sequence that wants one; end those that are done."""
        samplers = [sequence.sampler for sequence in sequences if not sequence.finish_reason]
        choices = self._attempt(sequences, partial(choose, logits, samplers)) if samplers else []
        if choices is None:
            return
        at_ns = time.monotonic_ns()
        for sequence, choice in zip_longest(sequences, choices):
            if choice is None and not sequence.finish_reason:
                self._fail(sequence, _not_finite())
                continue
            if choice is not None:
                self._events.append((sequence.request_id, sequence.take(choice, at_ns)))
            if sequence.finish_reason:
                self._finish(sequence)

    def _finish(self, sequence: Sequence) -> None:
        model = self._models[sequence.model_id]
        assert sequence.slot is not None
        finished = sequence.finished(state=model.state_bytes(sequence.slot), build=model.build)
        self._events.append((sequence.request_id, finished))
        self._retire(sequence)

    def _fail(self, sequence: Sequence, error: Exception) -> None:
        if not isinstance(error, TriptychError):
            log.error("%r failed", sequence, exc_info=error)
            error = EngineFailed(_describe(error))
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
            self._memory_changed.add(sequence.model_id)
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
        self._memory_changed.add(model_id)

    def _remove_model(self, model_id: str) -> None:
        for sequence in list(self._sequences.values()):
            if sequence.model_id == model_id:
                self._fail(sequence, EngineFailed(f"The model {model_id} was unloaded."))
        model = self._models.pop(model_id, None)
        if model is not None:
            self._scheduler.remove_model(model_id)
            self._memory_changed.discard(model_id)
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
        scored = max(1, SCORED_LOGITS // model.vocabulary_tokens)
        self._sequences[sequence.request_id] = sequence
        self._scheduler.submit(
            sequence.model_id,
            sequence.request_id,
            len(sequence.prompt_ids),
            chunk_tokens=scored if sequence.scores_prompt else None,
        )

    def _cancel(self, request_id: str) -> None:
        sequence = self._sequences.get(request_id)
        if sequence is not None:
            self._retire(sequence)

    def _stop(self) -> None:
        self._stopping = True

    def _report_memory(self, *, at_once: bool) -> None:
        now_ns = time.monotonic_ns()
        for model_id in list(self._memory_changed):
            reported_ns = self._memory_reported_ns.get(model_id, 0)
            if at_once or now_ns - reported_ns >= MEMORY_REPORT_NS:
                self._memory_changed.discard(model_id)
                self._memory_reported_ns[model_id] = now_ns
                self._emit(self._memory_report(model_id))

    def _memory_report(self, model_id: str) -> MemoryReport:
        pace = self._scheduler.pace(model_id)
        requests = pace.decode.mean_size
        return MemoryReport(
            model_id,
            self._models[model_id].memory(),
            StepTimes(
                decode_step_ns=_rounded(pace.decode.mean_duration_ns),
                decode_step_requests=None if requests is None else round(requests, 2),
                prefill_token_ns=_rounded(pace.prefill.mean_unit_ns),
            ),
            _device_memory(),
        )


def _device_memory() -> DeviceMemory | None:
    if not torch.cuda.is_available():
        return None
    return DeviceMemory(
        name=torch.cuda.get_device_name(),
        allocated_bytes=torch.cuda.memory_allocated(),
        reserved_bytes=torch.cuda.memory_reserved(),
    )


def _rounded(value: float | None) -> int | None:
    return None if value is None else round(value)


def _not_finite() -> EngineFailed:
    return EngineFailed("The model produced logits that are not numbers; the answer ends here.")


def _describe(error: Exception) -> str:
    # torch has no class for it on the CPU: a RuntimeError that names its allocator.
    exhausted = isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )
    if exhausted:
        return "The model ran out of memory while it held the request."
    return f"The model failed while it held the request ({type(error).__name__})."
