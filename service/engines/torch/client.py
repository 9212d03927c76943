"""The torch host as the service sees it: a supervised child process with all local models."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from model_registry.spec import ResolvedModel
from service.core.chat import ChatRequest, Prompt, TextPrompt
from service.core.errors import EngineFailed, ModelNotReady
from service.core.events import EngineEvent, ModelMemory
from service.core.ports import LoadProgress, Pulse, TokenizerInfo
from service.core.runtime import DeviceUse, HostState, ModelRuntime, Runtime
from service.engines.supervision import Backoff
from service.engines.torch.calls import Calls, error_named
from service.engines.torch.memory_estimate import TorchNeed
from service.engines.torch.process import HostProcess, default_threads
from service.engines.torch.protocol import messages as wire
from service.engines.torch.streams import Streams
from service.engines.torch.watchdog import StallWatch, Work, keep_watch

FATAL_LOADS: Final = 3
"""Host deaths during one model's load after which it is not loaded again by itself."""

Progress = Callable[[LoadProgress], None]

log = logging.getLogger(__name__)


class HostStatus(Struct, frozen=True, kw_only=True):
    """How the torch host fares."""

    state: HostState
    pid: int | None
    threads: int
    engine_version: str | None
    restarts: int
    last_failure: str | None
    """Why the host ended last; None if it never did."""
    restart_in_s: float | None
    """Seconds until the next start, where the state is `restarting`."""


@dataclass(slots=True)
class _Model:
    """What the service wants loaded, and how far that is."""

    order: wire.LoadModel
    on_progress: Progress
    waiter: "asyncio.Future[wire.Loaded]"
    loaded: wire.Loaded | None = None
    memory: ModelMemory = field(default_factory=ModelMemory)
    steps: wire.StepTimes = field(default_factory=wire.StepTimes)
    loading: bool = False
    """Whether the host has begun to load it."""
    fatal_loads: int = 0
    trouble: str | None = None
    """Why it is not loaded again by itself."""


class TorchHost:
    """Keeps one host process alive while models are wanted, and routes what it says.

    The process starts with the first load. If it dies, its running requests fail, it is started
    again after 1, 2, 4 … 60 s, and its models are loaded again.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        slots: int = 32,
        prefill_chunk_tokens: int = 256,
        max_itl_ms: float = 100.0,
        max_answer_tokens: int | None = None,
        kernels: wire.KernelChoice = "auto",
        threads: int = 0,
        stall_s: float = 60.0,
    ) -> None:
        """Start nothing yet.

        Args:
            data_dir: Folder for the socket (`run/`) and the child's log (`logs/torch-host.log`).
            slots: Requests that one model answers at once.
            prefill_chunk_tokens: Most prompt tokens that are prefilled between two decode steps.
            max_itl_ms: Gap between an answer's tokens that the prompts of others, whichever model
                they are for, should not exceed.
            max_answer_tokens: Longest answer to a request that names no `max_tokens`.
            kernels: Whether models run as compiled programs or as transformers' own code.
            threads: Threads that models compute with; 0 takes all cores.
            stall_s: Seconds without a step, while requests run, after which the host is killed.
        """
        self._data_dir = data_dir
        self._slots = slots
        self._prefill_chunk_tokens = prefill_chunk_tokens
        self._max_itl_ms = max_itl_ms
        self._max_answer_tokens = max_answer_tokens
        self._kernels = kernels
        self._threads = threads or default_threads()
        self._state: HostState = "stopped"
        self._process: HostProcess | None = None
        self._hello: wire.Hello | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._restarts = 0
        self._restart_at_s: float | None = None
        self._last_failure: str | None = None
        self._models: dict[str, _Model] = {}
        self._unloading: dict[str, asyncio.Future[None]] = {}
        self._streams = Streams()
        self._watch = StallWatch(stall_s)
        self._turns = 0
        self._calls = Calls(self._send)
        self.device_use: DeviceUse | None = None
        """What the GPU's allocator last reported; None on the CPU."""

    def __repr__(self) -> str:
        """Show state and counts."""
        return (
            f"<TorchHost {self._state}: {len(self._models)} models, "
            f"{len(self._streams)} requests, {self._restarts} restarts>"
        )

    @property
    def alive(self) -> bool:
        """Whether the host answers now."""
        return self._state == "running"

    @property
    def status(self) -> HostStatus:
        """How the host fares, from memory."""
        wait_s = None if self._restart_at_s is None else self._restart_at_s - time.monotonic()
        return HostStatus(
            state=self._state,
            pid=self._process.pid if self._process else None,
            threads=self._threads,
            engine_version=self._hello.engine_version if self._hello else None,
            restarts=self._restarts,
            last_failure=self._last_failure,
            restart_in_s=None if wait_s is None else max(0.0, wait_s),
        )

    @property
    def runtime(self) -> Runtime:
        """What computes, and each loaded model as it is run, from memory."""
        hello = self._hello
        return Runtime(
            state=self._state,
            pid=self._process.pid if self._process else None,
            restarts=self._restarts,
            engine_version=hello.engine_version if hello else None,
            device=hello.device if hello else None,
            threads=hello.threads if hello else self._threads,
            wait_policy=hello.wait_policy if hello else None,
            spin_count=hello.spin_count if hello else None,
            cpu_features=hello.cpu_features if hello else (),
            models=tuple(
                _runtime(model.order, model.loaded, model.steps)
                for model in self._models.values()
                if model.loaded is not None
            ),
        )

    # Models

    def need(self, model: ResolvedModel) -> TorchNeed:
        """What a model will hold here; reads its config. Raises ModelNotReady."""
        return TorchNeed(
            model,
            slots=self._slots,
            kernels=self._kernels,
            threads=self._threads,
            max_answer_tokens=self._max_answer_tokens,
        )

    async def load(self, model: ResolvedModel, on_progress: Progress) -> wire.Loaded:
        """Load a model, starting the host if need be; a cancelled load is undone.

        Raises ModelNotReady with the reason.
        """
        if self._state == "closed":
            raise ModelNotReady(f"{model.id} was not loaded: the service is shutting down.")
        if model.id in self._models:
            raise ModelNotReady(f"{model.id} is already loaded.")
        order = wire.LoadModel(
            model=model,
            slots=self._slots,
            prefill_chunk_tokens=self._prefill_chunk_tokens,
            max_itl_ms=self._max_itl_ms,
            kernels=self._kernels,
            max_answer_tokens=self._max_answer_tokens,
        )
        wanted = _Model(order, on_progress, asyncio.get_running_loop().create_future())
        self._models[model.id] = wanted
        if self._hello is not None:
            self._send(order)
        elif self._supervisor is None or self._supervisor.done():
            self._supervisor = asyncio.create_task(self._supervise(), name="supervise torch host")
        try:
            return await wanted.waiter
        except asyncio.CancelledError:
            if self._models.get(model.id) is wanted:
                del self._models[model.id]
                self._begin_unload(model.id)
            raise

    async def unload(self, model_id: str) -> None:
        """Fail a model's requests and free its memory; returns when that is done."""
        self._streams.forget(model_id)
        if self._models.pop(model_id, None) is not None:
            self._begin_unload(model_id)
        freed = self._unloading.get(model_id)  # a cancelled load's, if not this call's
        if freed is not None:
            await asyncio.wait([freed])

    def _begin_unload(self, model_id: str) -> None:
        if self._hello is not None:
            self._unloading[model_id] = asyncio.get_running_loop().create_future()
            self._send(wire.UnloadModel(model_id))

    def memory(self, model_id: str) -> ModelMemory:
        """Bytes that the host last reported for a model."""
        model = self._models.get(model_id)
        return model.memory if model else ModelMemory()

    def trouble(self, model_id: str) -> str | None:
        """Why a model cannot answer now, None if it can."""
        model = self._models.get(model_id)
        if model is None:
            return f"{model_id} is not loaded."
        if model.loaded is not None or model.trouble is not None:
            return model.trouble
        if self._state == "restarting":
            return f"{self._last_failure} It is being started again."
        return f"{model_id} is being loaded."

    def pulse(self, model_id: str) -> Pulse:
        """Whether the host makes steps while a model's requests run."""
        return Pulse(
            running=self._streams.of(model_id),
            silent_s=self._watch.stuck_s if self._streams.of(model_id) else None,
            stalled=self._state == "restarting" or (self._restarts > 0 and self._hello is None),
        )

    # Requests

    async def generate(self, model_id: str, request: ChatRequest) -> AsyncGenerator[EngineEvent]:
        """Events of one request; closing the generator cancels it. Raises TriptychErrors."""
        self._check(model_id)
        self._check_length(model_id, request.prompt)
        request_id = request.request_id
        stream = self._streams.open(request_id, model_id)
        self._send(
            wire.Generate(
                msgspec.structs.replace(request, model=model_id), queued_ns=time.monotonic_ns()
            )
        )
        try:
            while not stream.ended:
                yield await stream.next()
        finally:
            # No await here: a client that hangs up may be gone before one returns.
            self._streams.close(request_id)
            if not stream.ended:
                self._send(wire.Cancel(request_id))

    async def tokenize(
        self, model_id: str, prompt: Prompt, *, add_special_tokens: bool
    ) -> tuple[int, ...]:
        """Token ids of a prompt."""
        self._check(model_id)
        answer: wire.TokenIds = await self._calls.ask(
            lambda call_id: wire.Tokenize(call_id, model_id, prompt, add_special_tokens)
        )
        return answer.token_ids

    async def detokenize(self, model_id: str, token_ids: Sequence[int]) -> str:
        """Text of token ids."""
        self._check(model_id)
        answer: wire.Text = await self._calls.ask(
            lambda call_id: wire.Detokenize(call_id, model_id, tuple(token_ids))
        )
        return answer.text

    async def tokenizer_info(self, model_id: str) -> TokenizerInfo:
        """Special tokens and chat template."""
        self._check(model_id)
        answer: wire.Tokenizer = await self._calls.ask(
            lambda call_id: wire.DescribeTokenizer(call_id, model_id)
        )
        return answer.info

    async def aclose(self) -> None:
        """End the host within seconds; what still runs fails."""
        self._state = "closed"
        if self._supervisor is not None and not self._supervisor.done():
            self._supervisor.cancel()
            await asyncio.wait([self._supervisor])
        self._streams.fail(EngineFailed("The service is shutting down."))
        self._fail_everything("The service is shutting down.")
        self._models.clear()

    def _check(self, model_id: str) -> None:
        trouble = self.trouble(model_id)
        if trouble is not None:
            raise EngineFailed(trouble, retry_after_s=self.status.restart_in_s)

    def _check_length(self, model_id: str, prompt: Prompt) -> None:
        """Refuse a text that cannot fit the context before the host is asked to tokenize it."""
        loaded = self._models[model_id].loaded
        if isinstance(prompt, TextPrompt) and loaded is not None and loaded.text_bound is not None:
            loaded.text_bound.check(prompt.text, context_tokens=loaded.context_tokens)

    def _send(self, message: wire.ToHost) -> None:
        if self._process is not None:
            self._process.send(message)

    # The process

    async def _supervise(self) -> None:
        """Start the host, and again whenever it dies, while a model is wanted."""
        backoff = Backoff()
        while self._models:
            self._state, self._restart_at_s = "starting", None
            began_s = time.monotonic()
            reason = await self._live()
            log.error("%s", reason)
            wait_s = backoff.died(after_s=time.monotonic() - began_s)
            self._state, self._restart_at_s = "restarting", time.monotonic() + wait_s
            self._last_failure = reason
            self._streams.lose(
                reason, retry_after_s=self.status.restart_in_s, last_step=self._last_step()
            )
            self._fail_everything(reason)
            await asyncio.sleep(wait_s)
            self._restarts += 1
        self._state, self._restart_at_s = "stopped", None

    async def _live(self) -> str:
        self._watch = StallWatch(self._watch.stall_s)
        self._process = process = HostProcess(
            self._data_dir,
            threads=self._threads,
            heartbeat_s=self._watch.look_s,
            on_message=self._receive,
        )
        watching = asyncio.create_task(
            keep_watch(self._watch, self._work, process.kill), name="watch torch host"
        )
        try:
            return await process.run()
        except OSError as error:
            return f"The torch host could not be started: {error.strerror}."
        finally:
            watching.cancel()

    def _work(self) -> Work:
        """What the host has to do, once it runs."""
        if self._hello is None:
            return Work()  # how long it may take to start is the process's own affair
        loading = sum(model.loading for model in self._models.values())
        return Work(
            requests=len(self._streams),
            calls=len(self._calls) + loading,
            new=bool(loading) or self._streams.new,
        )

    def _last_step(self) -> tuple[str, ...] | None:
        """Whose step the host died in; None if it may have died of a load."""
        if self._process is None or any(model.loading for model in self._models.values()):
            return None
        return self._process.last_step()

    def _fail_everything(self, reason: str) -> None:
        """The host is gone: end all that waited for it."""
        self._hello = None
        self._calls.fail(EngineFailed(reason, retry_after_s=self.status.restart_in_s))
        for freed in self._unloading.values():
            if not freed.done():
                freed.set_result(None)
        self._unloading.clear()
        for model_id, model in list(self._models.items()):
            self._lose(model_id, model, reason)

    def _lose(self, model_id: str, model: _Model, reason: str) -> None:
        if not model.waiter.done():
            del self._models[model_id]
            model.waiter.set_exception(ModelNotReady(f"{model_id} was not loaded. {reason}"))
            return
        if model.loading:
            model.fatal_loads += 1
        if model.fatal_loads >= FATAL_LOADS:
            model.trouble = f"{model_id} is not loaded any more: its load ended the host. {reason}"
        model.loaded, model.loading, model.memory = None, False, ModelMemory()

    def _receive(self, message: wire.FromHost) -> None:
        self._watch.heard()
        match message:
            case wire.Events(items=items):
                self._watch.stepped()
                for request_id, event in items:
                    self._streams.deliver(request_id, event)
            case wire.PromptScores(request_id=request_id, scores=scores):
                self._watch.stepped()
                self._streams.score(request_id, scores)
            case wire.Heartbeat(turns=turns, resting=resting):
                if resting or turns != self._turns:
                    self._watch.stepped()
                self._turns = turns
            case wire.RequestFailed(request_id=request_id):
                self._streams.deliver(
                    request_id, error_named(message.code, message.message, message.param)
                )
            case wire.TokenIds() | wire.Text() | wire.Tokenizer() | wire.CallFailed():
                self._calls.answer(message)
            case _:
                self._receive_state(message)

    def _receive_state(self, message: wire.FromHost) -> None:
        """What the host says of itself and of its models."""
        if isinstance(message, wire.Hello):
            self._hello, self._state = message, "running"
            log.info(
                "the torch host %s runs: %s; %s, %d threads, spin count %s, wait policy %s",
                self.status.pid,
                message.engine_version,
                message.device,
                message.threads,
                message.spin_count,
                message.wait_policy,
            )
            for wanted in self._models.values():
                if wanted.trouble is None:
                    self._send(wanted.order)
            return
        if isinstance(message, wire.Unloaded):
            freed = self._unloading.pop(message.model_id, None)
            if freed is not None and not freed.done():
                freed.set_result(None)
            return
        assert isinstance(
            message, wire.LoadProgress | wire.Loaded | wire.LoadFailed | wire.MemoryReport
        )
        model = self._models.get(message.model_id)
        if model is not None:
            self._receive_model(model, message)

    def _receive_model(
        self,
        model: _Model,
        message: wire.LoadProgress | wire.Loaded | wire.LoadFailed | wire.MemoryReport,
    ) -> None:
        match message:
            case wire.LoadProgress(stage=stage, done_bytes=done, total_bytes=total):
                model.loading = True
                model.on_progress(LoadProgress(stage=stage, done_bytes=done, total_bytes=total))
            case wire.Loaded(memory=memory):
                model.loaded, model.memory, model.loading = message, memory, False
                model.fatal_loads = 0
                build = message.build
                log.info("%s runs on %s, %s", message.model_id, build.kernel_path, build.dtype)
                if not model.waiter.done():
                    model.waiter.set_result(message)
            case wire.MemoryReport(memory=memory, steps=steps, device=device):
                model.memory, model.steps = memory, steps
                if device is not None:
                    self.device_use = DeviceUse(
                        name=device.name,
                        allocated_bytes=device.allocated_bytes,
                        reserved_bytes=device.reserved_bytes,
                    )
            case wire.LoadFailed(model_id=model_id, message=reason):
                model.loading = False
                if model.waiter.done():
                    model.trouble = reason
                else:
                    del self._models[model_id]
                    model.waiter.set_exception(ModelNotReady(reason))


def _runtime(order: wire.LoadModel, loaded: wire.Loaded, steps: wire.StepTimes) -> ModelRuntime:
    return ModelRuntime(
        id=loaded.model_id,
        kernel_path=loaded.build.kernel_path,
        dtype=loaded.build.dtype,
        quantization=loaded.build.quantization,
        slots=order.slots,
        prefill_chunk_tokens=order.prefill_chunk_tokens,
        max_itl_ms=order.max_itl_ms,
        decode_step_ns=steps.decode_step_ns,
        decode_step_requests=steps.decode_step_requests,
        prefill_token_ns=steps.prefill_token_ns,
    )
