"""TorchHost: the supervised child process that all models of the torch engine share."""

import logging
from collections.abc import Mapping
from typing import Protocol

from msgspec import Struct

from service.core.errors import EngineFailed, InvalidRequest, ModelNotReady
from service.core.runtime import DeviceUse, ModelRuntime, ProcessState, Runtime
from service.engines.supervision.supervisor import Supervisor
from service.engines.supervision.watchdog import Workload
from service.engines.threads import default_threads
from service.engines.torch.calls import Calls, error_named
from service.engines.torch.options import TorchOptions
from service.engines.torch.prefix_cache import PrefixCacheControl
from service.engines.torch.process import HostProcess
from service.engines.torch.protocol import messages as wire
from service.engines.torch.protocol.messages import FrameTooLarge
from service.engines.torch.streams import Streams

ModelMessage = wire.LoadProgress | wire.Loaded | wire.LoadFailed | wire.MemoryReport | wire.Unloaded
"""Messages about one model."""

log = logging.getLogger(__name__)


class Hosted(Protocol):
    """A model's engine, as the host sees it."""

    loading: bool
    """Whether the host reads the model."""

    @property
    def awaited(self) -> bool:
        """True while the host has a load or unload of the model to do."""

    @property
    def unproven(self) -> bool:
        """True until its first answer while it loads or runs requests: its steps may compile."""

    async def unloaded(self) -> None:
        """Wait until it has left the host; return at once if it does not leave."""

    def receive(self, message: ModelMessage) -> None:
        """Take a message about the model."""

    def host_ready(self) -> None:
        """Handle the start of the host."""

    def host_lost(self, reason: str) -> None:
        """Handle the loss of the host, and of the model with it."""

    def runtime(self) -> ModelRuntime | None:
        """Runtime configuration of the model; None if it is not loaded."""


class HostStatus(Struct, frozen=True, kw_only=True):
    """State of the torch host."""

    state: ProcessState
    pid: int | None
    threads: int
    engine_version: str | None
    restarts: int
    last_failure: str | None
    """Why it ended last; None if it never did."""
    restart_in_s: float | None
    """Seconds until the next start; None unless the state is `restarting`."""


class TorchHost:
    """The process of the torch engine: its supervision, connection and message routing.

    The process starts with the first load. If it dies, all requests in it fail, it is started
    again after 1, 2, 4 … 60 s, and engines load their models again.
    """

    def __init__(self, options: TorchOptions) -> None:
        """Start nothing yet."""
        self.options = options
        self.threads = options.threads or default_threads()
        self.streams = Streams()
        self.calls = Calls(self.send)
        self.prefix_cache = PrefixCacheControl(options.prefix_cache_bytes, self.send)
        self.device_use: DeviceUse | None = None
        """Latest report of the GPU's allocator; None on the CPU."""
        self._engines: dict[str, Hosted] = {}
        self._process: HostProcess | None = None
        self._supervisor = Supervisor(
            "The torch host",
            self._new_process,
            on_ready=self._on_ready,
            on_lost=self._on_lost,
            wanted=lambda: bool(self._engines),
        )

    def __repr__(self) -> str:
        return (
            f"<TorchHost {self._supervisor.state}: {len(self._engines)} models, "
            f"{len(self.streams)} requests, {self._supervisor.restarts} restarts>"
        )

    # State

    @property
    def alive(self) -> bool:
        """True while the process serves."""
        return self._supervisor.running

    @property
    def recovering(self) -> bool:
        """True while a process that hung or died is being restarted."""
        return self._supervisor.recovering

    @property
    def restart_in_s(self) -> float | None:
        """Seconds until the next start; None unless it is being restarted."""
        return self._supervisor.restart_in_s

    @property
    def stuck_s(self) -> float:
        """Time without a step while requests run."""
        return self._process.watchdog.stuck_s if self._process else 0.0

    @property
    def hello(self) -> wire.Hello | None:
        """The running process's first message; None while none runs."""
        return self._process.hello if self._process and self.alive else None

    @property
    def status(self) -> HostStatus:
        """The state, from memory."""
        return HostStatus(
            state=self._supervisor.state,
            pid=self._process.pid if self._process else None,
            threads=self.threads,
            engine_version=self.hello.engine_version if self.hello else None,
            restarts=self._supervisor.restarts,
            last_failure=self._supervisor.last_failure,
            restart_in_s=self.restart_in_s,
        )

    @property
    def runtime(self) -> Runtime:
        """The process and how each loaded model is run, from memory."""
        hello, status = self.hello, self.status
        runs = [engine.runtime() for engine in self._engines.values()]
        return Runtime(
            state=status.state,
            pid=status.pid,
            restarts=status.restarts,
            engine_version=status.engine_version,
            device=hello.device if hello else None,
            threads=hello.threads if hello else self.threads,
            wait_policy=hello.wait_policy if hello else None,
            spin_count=hello.spin_count if hello else None,
            cpu_features=hello.cpu_features if hello else (),
            models=tuple(each for each in runs if each is not None),
        )

    def trouble(self) -> str | None:
        """Reason why a process that died is not serving; None if it serves or never died."""
        return self._supervisor.trouble()

    def processes(self) -> Mapping[str, int]:
        """The process, while it lives."""
        pid = self.status.pid
        return {} if pid is None else {"torch-host": pid}

    # Engines

    async def open(self, model_id: str, engine: Hosted) -> None:
        """Register an engine; waits while the model's earlier engine is being unloaded.

        Raises ModelNotReady if the model is loaded, or the host is closed.
        """
        while (present := self._engines.get(model_id)) is not None:
            await present.unloaded()
            if self._engines.get(model_id) is present:
                raise ModelNotReady(f"{model_id} is already loaded.")
        if self._supervisor.state == "closed":
            raise ModelNotReady(f"{model_id} was not loaded: the service is shutting down.")
        self._engines[model_id] = engine

    def close(self, model_id: str, engine: Hosted) -> None:
        """Forget an engine whose model is not in the process."""
        if self._engines.get(model_id) is engine:
            del self._engines[model_id]

    async def ready(self) -> wire.Hello:
        """Wait until the process serves, starting it if need be. Raises ModelNotReady."""
        while self.hello is None:
            await self._supervisor.ready()
        return self.hello

    def send(self, message: wire.ToHost) -> None:
        """Queue a message; dropped without a connection.

        Raises InvalidRequest for one that exceeds the size of a frame.
        """
        if self._process is None:
            return
        try:
            self._process.send(message)
        except FrameTooLarge as error:
            raise InvalidRequest(f"The request is too large for the engine: {error}.") from error

    async def aclose(self) -> None:
        """End the process within seconds; all that runs in it fails."""
        await self._supervisor.aclose()
        reason = "The service is shutting down."
        self.streams.fail(EngineFailed(reason))
        self._lose_all(reason)
        self._engines.clear()

    # Supervision

    def _new_process(self) -> HostProcess:
        self._process = HostProcess(
            self.options,
            threads=self.threads,
            workload=self._workload,
            on_message=self._receive,
        )
        return self._process

    def _workload(self) -> Workload:
        awaited = sum(engine.awaited for engine in self._engines.values())
        return Workload(
            requests=len(self.streams),
            calls=len(self.calls) + awaited,
            slow_steps=any(engine.unproven for engine in self._engines.values()),
        )

    def _on_ready(self) -> None:
        hello = self.hello
        assert hello is not None
        log.info(
            "the torch host %s runs: %s; %s, %d threads, spin count %s, wait policy %s",
            self.status.pid,
            hello.engine_version,
            hello.device,
            hello.threads,
            hello.spin_count,
            hello.wait_policy,
        )
        self.prefix_cache.tell()
        for engine in list(self._engines.values()):
            engine.host_ready()

    def _on_lost(self, reason: str) -> None:
        self.streams.lose(reason, retry_after_s=self.restart_in_s, last_step=self._last_step())
        self._lose_all(reason)

    def _last_step(self) -> tuple[str, ...] | None:
        """Requests of the step that the process died in; None if a load may have killed it."""
        if self._process is None or any(engine.loading for engine in self._engines.values()):
            return None
        return self._process.last_step()

    def _lose_all(self, reason: str) -> None:
        self.calls.fail(EngineFailed(reason, retry_after_s=self.restart_in_s))
        for engine in list(self._engines.values()):
            engine.host_lost(reason)

    # Messages

    def _receive(self, message: wire.FromHost) -> None:
        match message:
            case wire.Events(items=items):
                for request_id, event in items:
                    self.streams.deliver(request_id, event)
            case wire.PromptScores(request_id=request_id, scores=scores):
                self.streams.score(request_id, scores)
            case wire.RequestFailed(request_id=request_id):
                self.streams.deliver(
                    request_id, error_named(message.code, message.message, message.param)
                )
            case (
                wire.TokenIds()
                | wire.Text()
                | wire.Tokenizer()
                | wire.SplitIntoTokens()
                | wire.CallFailed()
            ):
                self.calls.answer(message)
            case wire.Hello() | wire.Heartbeat():
                pass  # of the process, which takes them itself
            case _:
                self._receive_of_model(message)

    def _receive_of_model(self, message: ModelMessage) -> None:
        if isinstance(message, wire.MemoryReport) and message.device is not None:
            self.device_use = DeviceUse(
                name=message.device.name,
                allocated_bytes=message.device.allocated_bytes,
                reserved_bytes=message.device.reserved_bytes,
            )
        if isinstance(message, wire.MemoryReport) and message.prefix_cache is not None:
            self.prefix_cache.use = message.prefix_cache
        engine = self._engines.get(message.model_id)
        if engine is not None:
            engine.receive(message)
