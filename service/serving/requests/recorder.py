"""Recorder: turns the events of a request into its record, exactly one however it ends."""

import asyncio
import itertools
import time
from collections.abc import Callable, Sequence

import msgspec

from model_registry.spec import ResolvedModel
from model_registry.work import WorkFormula
from service.core.chat import ChatRequest, Sampling
from service.core.chat.stored import stored_prompt
from service.core.errors import (
    EngineFailed,
    InvalidRequest,
    ModelNotReady,
    NotFound,
    TriptychError,
    Unavailable,
)
from service.core.events import Delta, EngineEvent, Finished, PrefixReuse, Started
from service.core.metrics import RequestMetrics, derive, percentile
from service.core.ports import EnergyMetering, RecordSink, RequestObserver
from service.core.record import RequestRecord, Status, bounded
from service.core.routes.decision import Decision
from service.serving.requests.costs import Costs

_DEFAULT_SAMPLING = msgspec.structs.asdict(Sampling())
#: Sampling parameters that hold text or tokens of the client: content, like the prompt.
_CONTENT_SAMPLING = frozenset({"stop", "logit_bias"})


class Recorder:
    """Starts a recording for each accepted request."""

    def __init__(
        self,
        sink: RecordSink,
        observers: Sequence[RequestObserver] = (),
        *,
        energy: EnergyMetering | None = None,
        store_content: bool = False,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.sink = sink
        self.observers = tuple(observers)
        self.energy = energy
        self.store_content = store_content
        self.clock_ns = clock_ns

    def accept(self, request: ChatRequest) -> "Recording":
        """Submit the `accepted` record and return its recording.

        Raises StoreUnavailable if the sink is full: no request is answered unrecorded.
        """
        recording = Recording(self, request)
        self.sink.submit(recording.record)
        for observer in self.observers:
            observer.started(recording.record)
        return recording


class Recording:
    """The record of one request while it runs.

    `Finished` and `finish` complete the record; it is submitted once, when the answer is closed.
    """

    def __init__(self, recorder: Recorder, request: ChatRequest) -> None:
        self._recorder = recorder
        self._tokens: list[tuple[int, int]] = []  # (sampled at, tokens since the one before)
        self._completion_tokens: int | None = 0
        self._reported_tokens = 0
        self._completion_bytes = 0
        self._answering = False
        self._submitted = False
        self._metrics: RequestMetrics | None = None
        self._costs = Costs(request.request_id, recorder.energy, recorder.clock_ns)
        self._text: list[str] | None = [] if recorder.store_content else None
        self.record = RequestRecord(
            request_id=request.request_id,
            phase="accepted",
            status="running",
            endpoint=request.endpoint,
            stream=request.stream,
            requested_model=bounded(request.model),
            client_request_id=bounded(request.client_request_id),
            comparison_id=bounded(request.comparison_id),
            arm=request.arm,
            experiment_id=request.experiment_id,
            shadow_of=request.shadow_of,
            replay_of=request.replay_of,
            accepted_at_ns=request.accepted_at_ns,
            accepted_ns=request.accepted_ns,
            sampling=_changed(request.sampling, content=recorder.store_content),
            prompt_content=stored_prompt(request.prompt) if recorder.store_content else None,
        )
        """The record as far as it is known."""

    @property
    def metrics(self) -> RequestMetrics:
        """Metrics of the record, derived once it is final."""
        if self._metrics is not None:
            return self._metrics
        derived = derive(self.record)
        if self.record.phase == "final":
            self._metrics = derived
        return derived

    @property
    def completion_tokens(self) -> int | None:
        """Tokens so far; None where the engine does not report them."""
        return self._completion_tokens

    @property
    def clock_ns(self) -> Callable[[], int]:
        """The clock of all stamps."""
        return self._recorder.clock_ns

    async def durable(self) -> None:
        """Wait until the `accepted` record is on disk."""
        await self._recorder.sink.flushed()

    def queued(self, at_ns: int) -> None:
        """Note when the request began to wait for the gate, for memory or for the engine.

        The first call counts: the engine's own stamp does not replace it.
        """
        if self.record.queued_ns is None:
            self._note(queued_ns=at_ns)

    def routed(self, choice: Decision) -> None:
        """Note the routing policy, the reason for its choice, and what it was decided by."""
        self._note(route=choice.policy, route_reason=choice.reason, route_inputs=choice.inputs)

    def explain(self, more: str) -> None:
        """Add to the reason of the routing."""
        so_far = self.record.route_reason
        self._note(route_reason=f"{so_far}; {more}" if so_far else more)

    def restart_clock(self) -> None:
        """Measure from now on: an isolated request waited for the gate until now."""
        now_ns = self._recorder.clock_ns()
        waited_ns = now_ns - self.record.accepted_ns
        self._note(
            accepted_ns=now_ns,
            accepted_at_ns=self.record.accepted_at_ns + waited_ns,
            queued_ns=now_ns,
        )

    def fell_back(self, model: str, error: TriptychError) -> None:
        """Note that an arm failed before it answered and the next one is tried."""
        so_far = self.record.route_reason
        self._answering = False
        self._costs.restart()
        self._note(
            route_reason=f"{so_far}; {model}: {error.code}" if so_far else f"{model}: {error.code}",
            cold=False,
            load_ns=None,
            scheduled_ns=None,
            prompt_tokens=None,
            cached_tokens=None,
            prefix=PrefixReuse(),
        )

    def served_by(
        self,
        model: ResolvedModel,
        *,
        verified: bool | None,
        load_ns: int | None,
        work: WorkFormula | None = None,
    ) -> None:
        """Note the model that answers, how long the request waited for its load, what it works."""
        self._costs.served_by(model, work)
        self._note(
            model=model.spec.id,
            variant=model.variant,
            family=model.spec.family,
            verified=verified,
            cold=load_ns is not None,
            load_ns=load_ns,
        )

    def observe(self, event: EngineEvent) -> None:
        """Record what an event reports; `Finished` completes the record."""
        match event:
            case Started():
                self._answering = True
                self._costs.started(event)
                self.queued(event.queued_ns)
                self._note(
                    scheduled_ns=event.scheduled_ns,
                    prompt_tokens=event.prompt_tokens,
                    cached_tokens=event.cached_tokens,
                    prefix=event.prefix,
                )
            case Delta():
                self._take_text(event.text)
                self._take_tokens(event)
            case Finished():
                self._take_text(event.text)
                self._note(
                    finish_reason=event.reason,
                    prompt_tokens=event.prompt_tokens,
                    cached_tokens=_either(event.cached_tokens, self.record.cached_tokens),
                    scheduled_ns=_either(event.scheduled_ns, self.record.scheduled_ns),
                    completion_tokens=event.completion_tokens,
                    first_ns=event.first_ns,
                    last_ns=event.last_ns,
                    state=event.state,
                    workspace_peak_bytes=event.workspace_peak_bytes,
                    co_scheduled=event.co_scheduled,
                    build=event.build,
                )
                self._complete("ok", None)

    def finish(self, status: Status, error_code: str | None = None) -> RequestRecord:
        """Close the answer: stamp and submit the final record, once.

        A record that `Finished` completed keeps its status. Later calls change nothing.
        """
        if self._submitted:
            return self.record
        self._submitted = True
        self._complete(status, error_code)
        self._note(closed_ns=self._recorder.clock_ns())
        unreported = (self.record.completion_tokens or 0) - self._reported_tokens
        if unreported > 0:  # an engine that told of them at the end alone
            self._report(unreported)
        for observer in self._recorder.observers:
            observer.finished(self.record, self.metrics)
        self._recorder.sink.submit(self.record)
        return self.record

    def fail(self, error: BaseException) -> RequestRecord:
        """Submit the final record of a request that an error or a cancellation ended."""
        return self.finish(status_of(error), code_of(error))

    def _complete(self, status: Status, error_code: str | None) -> None:
        if self.record.phase != "final":
            self._note(phase="final", status=status, error_code=error_code, **self._answer())
            self._note(**self._costs.note(self.record))

    def _answer(self) -> dict[str, object]:
        """Counts and stamps of the answer, also of one that was cut short."""
        changes: dict[str, object] = dict(self._gaps())
        if self._answering:
            changes["completion_bytes"] = self._completion_bytes
            if self.record.completion_tokens is None:
                changes["completion_tokens"] = self._completion_tokens
        if self._tokens and self.record.first_ns is None:
            changes |= {"first_ns": self._tokens[0][0], "last_ns": self._tokens[-1][0]}
        if self._text is not None:
            changes["completion_content"] = "".join(self._text)
        return changes

    def _gaps(self) -> dict[str, object]:
        """Inter-token latencies; tokens that came together share the gap before them equally."""
        gaps_ns = [
            (at_ns - before_ns) / tokens
            for (before_ns, _), (at_ns, tokens) in itertools.pairwise(self._tokens)
            for _ in range(tokens)
        ]
        if not gaps_ns:
            return {}
        shares = {"itl_p50_ns": 0.5, "itl_p95_ns": 0.95, "itl_p99_ns": 0.99, "itl_max_ns": 1.0}
        return {name: round(percentile(gaps_ns, share) or 0) for name, share in shares.items()}

    def _take_tokens(self, delta: Delta) -> None:
        if delta.token_ids is None:  # nobody knows how many: no count and no gaps
            self._completion_tokens = None
            self._tokens.clear()
        elif delta.token_ids and self._completion_tokens is not None:
            self._tokens.append((delta.at_ns, len(delta.token_ids)))
            self._completion_tokens += len(delta.token_ids)
            self._report(len(delta.token_ids))

    def _report(self, tokens: int) -> None:
        self._reported_tokens += tokens
        for observer in self._recorder.observers:
            observer.generated(self.record, tokens)

    def _take_text(self, text: str) -> None:
        self._answering = True
        self._completion_bytes += len(text.encode())
        if self._text is not None:
            self._text.append(text)

    def _note(self, **changes: object) -> None:
        self.record = msgspec.structs.replace(self.record, **changes)


def status_of(error: BaseException) -> Status:
    """The status of a request that ended with this error."""
    match error:
        case asyncio.CancelledError() | GeneratorExit():
            return "cancelled"
        case ModelNotReady() | EngineFailed():
            return "failed"
        case InvalidRequest() | NotFound() | Unavailable():
            return "refused"
        case _:
            return "failed"


def code_of(error: BaseException) -> str | None:
    """The stable code of an error; a cancellation has none."""
    if status_of(error) == "cancelled":
        return None
    return error.code if isinstance(error, TriptychError) else TriptychError.code


def _either(first: int | None, second: int | None) -> int | None:
    return second if first is None else first


def _changed(sampling: Sampling, *, content: bool) -> dict[str, object] | None:
    """Parameters that differ from their defaults; None if there are none.

    Those that hold a client's text or tokens are kept only where contents are stored.
    """
    values = msgspec.structs.asdict(sampling)
    return {
        name: value
        for name, value in values.items()
        if value != _DEFAULT_SAMPLING[name] and (content or name not in _CONTENT_SAMPLING)
    } or None
