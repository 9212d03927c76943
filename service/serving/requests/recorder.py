"""Turns one request's events into its record: exactly one final record, whatever ends it."""

import asyncio
import itertools
import time
from collections.abc import Callable, Sequence

import msgspec

from model_registry.spec import ResolvedModel
from service.core.chat import ChatPrompt, ChatRequest, Prompt, Sampling, TextPrompt
from service.core.errors import (
    EngineFailed,
    InvalidRequest,
    ModelNotReady,
    NotFound,
    TriptychError,
    Unavailable,
)
from service.core.events import Delta, EngineEvent, Finished, Started
from service.core.metrics import percentile
from service.core.ports import RecordSink, RequestObserver
from service.core.record import RequestRecord, Status

_DEFAULT_SAMPLING = msgspec.structs.asdict(Sampling())


class Recorder:
    """Opens a recording for each request."""

    def __init__(
        self,
        sink: RecordSink,
        observers: Sequence[RequestObserver] = (),
        *,
        store_content: bool = False,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.sink = sink
        self.observers = tuple(observers)
        self.store_content = store_content
        self.clock_ns = clock_ns

    def accept(self, request: ChatRequest) -> "Recording":
        """Submit the `accepted` record and start recording.

        Raises StoreUnavailable where the sink takes no more: nothing is answered unrecorded.
        """
        recording = Recording(self, request)
        self.sink.submit(recording.record)
        for observer in self.observers:
            observer.started(recording.record)
        return recording


class Recording:
    """One request's record in the making."""

    def __init__(self, recorder: Recorder, request: ChatRequest) -> None:
        self._recorder = recorder
        self._tokens: list[tuple[int, int]] = []  # (sampled at, tokens since the one before)
        self._completion_tokens: int | None = 0
        self._completion_bytes = 0
        self._text: list[str] | None = [] if recorder.store_content else None
        self.record = RequestRecord(
            request_id=request.request_id,
            phase="accepted",
            status="running",
            endpoint=request.endpoint,
            stream=request.stream,
            requested_model=request.model,
            client_request_id=request.client_request_id,
            comparison_id=request.comparison_id,
            arm=request.arm,
            accepted_at_ns=request.accepted_at_ns,
            accepted_ns=request.accepted_ns,
            sampling=_changed(request.sampling),
            prompt_content=content_of(request.prompt) if recorder.store_content else None,
        )
        """The record as far as it is known; final once `finish` has run."""

    async def durable(self) -> None:
        """Return once the `accepted` record is on disk."""
        await self._recorder.sink.flushed()

    def routed(self, policy: str, reason: str) -> None:
        """Note which policy chose, and why."""
        self._note(route=policy, route_reason=reason)

    def fell_back(self, model: str, error: TriptychError) -> None:
        """Note that an arm refused, so that the next one is tried."""
        so_far = self.record.route_reason
        self._note(
            route_reason=f"{so_far}; {model}: {error.code}" if so_far else f"{model}: {error.code}",
            cold=False,
            load_ns=None,
        )

    def served_by(
        self, model: ResolvedModel, *, verified: bool | None, load_ns: int | None
    ) -> None:
        """Note the model that answers and how long the request waited for its load."""
        self._note(
            model=model.spec.id,
            variant=model.variant,
            family=model.spec.family,
            verified=verified,
            cold=load_ns is not None,
            load_ns=load_ns,
        )

    def observe(self, event: EngineEvent) -> None:
        """Take what an event says; `Finished` makes the record final."""
        match event:
            case Started():
                self._note(
                    queued_ns=event.queued_ns,
                    scheduled_ns=event.scheduled_ns,
                    prompt_tokens=event.prompt_tokens,
                    cached_tokens=event.cached_tokens,
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
                self.finish("ok")

    def finish(self, status: Status, error_code: str | None = None) -> RequestRecord:
        """Submit the final record, once; later calls change nothing."""
        if self.record.phase == "final":
            return self.record
        self._note(phase="final", status=status, error_code=error_code, **self._answer())
        for observer in self._recorder.observers:
            observer.finished(self.record)
        self._recorder.sink.submit(self.record)
        return self.record

    def fail(self, error: BaseException) -> RequestRecord:
        """Submit the final record of a request that an error or a cancellation ended."""
        return self.finish(status_of(error), code_of(error))

    def _answer(self) -> dict[str, object]:
        """What is known of the answer, also of one that was cut short."""
        changes: dict[str, object] = {"closed_ns": self._recorder.clock_ns(), **self._gaps()}
        if self.record.queued_ns is not None:
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
            for observer in self._recorder.observers:
                observer.generated(self.record, len(delta.token_ids))

    def _take_text(self, text: str) -> None:
        self._completion_bytes += len(text.encode())
        if self._text is not None:
            self._text.append(text)

    def _note(self, **changes: object) -> None:
        self.record = msgspec.structs.replace(self.record, **changes)


def status_of(error: BaseException) -> Status:
    """How a request that ended with this error is counted."""
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


def content_of(prompt: Prompt) -> str:
    """A prompt as it is stored: text as it is, everything else as JSON."""
    match prompt:
        case TextPrompt(text):
            return text
        case ChatPrompt(messages):
            return msgspec.json.encode(messages).decode()
        case _:
            return msgspec.json.encode(prompt.token_ids).decode()


def _either(first: int | None, second: int | None) -> int | None:
    return second if first is None else first


def _changed(sampling: Sampling) -> dict[str, object] | None:
    """The parameters that differ from their defaults, None if there are none."""
    values = msgspec.structs.asdict(sampling)
    return {
        name: value for name, value in values.items() if value != _DEFAULT_SAMPLING[name]
    } or None
