"""HostProcess: one life of the torch host, its socket and its log."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from typing import Final

from msgspec import msgpack

from service.core.errors import ModelNotReady
from service.engines.supervision.child_log import ChildLog
from service.engines.supervision.socket_path import socket_path
from service.engines.supervision.watchdog import Watchdog, Workload
from service.engines.torch.environment import environment
from service.engines.torch.options import TorchOptions
from service.engines.torch.protocol.frames import FrameProtocol
from service.engines.torch.protocol.last_step import LastStep
from service.engines.torch.protocol.messages import (
    Events,
    FromHost,
    Heartbeat,
    Hello,
    PromptScores,
    ToHost,
)

START_S: Final = 120.0
"""Longest time to import torch and connect."""

STOP_S: Final = 5.0
"""Time that a host gets to end by itself before it is killed."""

_FIRST: Final = asyncio.FIRST_COMPLETED


class HostProcess:
    """A life of the host, from its start until it is gone.

    The child connects to a socket that only this user can reach and ends when the connection does,
    so it cannot outlive the service.
    """

    def __init__(
        self,
        options: TorchOptions,
        *,
        threads: int,
        workload: Callable[[], Workload],
        on_message: Callable[[FromHost], None],
    ) -> None:
        self._options = options
        self._threads = threads
        self._workload = workload
        self._on_message = on_message
        self._log = ChildLog(options.data_dir / "logs" / "torch-host.log")
        self._path = socket_path(options.data_dir, f"torch-{os.getpid()}.sock")
        self._server: asyncio.Server | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._protocol: FrameProtocol[FromHost] | None = None
        self._last_step: LastStep | None = None
        self._killed_for: str | None = None
        self._turns = 0
        self._greeted = asyncio.Event()
        self._lost = asyncio.Event()
        self._watching: asyncio.Task[None] | None = None
        self.watchdog = Watchdog(options.stall_s)
        self.hello: Hello | None = None
        """The host's first message; None before it."""

    @property
    def pid(self) -> int | None:
        """The child's process id while it lives."""
        alive = self._process is not None and self._process.returncode is None
        return self._process.pid if alive and self._process else None

    def send(self, message: ToHost) -> None:
        """Queue a message; dropped without a connection. Raises FrameTooLarge."""
        if self._protocol is not None:
            self._protocol.send(message)

    def kill(self, reason: str) -> None:
        """Kill the child, a stopped one too; *reason* is told by `ended`."""
        if self.pid is not None and self._process is not None:
            self._killed_for = reason
            self._process.kill()

    def last_step(self) -> tuple[str, ...]:
        """Ids of the requests in the host's current step, or in the one that it died in."""
        return self._last_step.read() if self._last_step is not None else ()

    async def start(self) -> None:
        """Start the child. Raises OSError."""
        running = asyncio.get_running_loop()
        self._server = await running.create_unix_server(self._accept, str(self._path))
        output = self._log.open()
        shared = LastStep.create()
        try:
            self._last_step = LastStep(shared)
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "service.torch_host.__main__"),
                *("--socket", str(self._path)),
                *("--threads", str(self._threads)),
                *("--heartbeat", str(self.watchdog.look_s)),
                *("--last-step", str(shared)),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment(self._threads, self._options.data_dir),
                pass_fds=(shared,),
                start_new_session=True,  # a terminal's Ctrl-C is for the service alone
            )
        finally:
            os.close(shared)
            os.close(output)

    async def ready(self) -> None:
        """Wait for the host's first message. Raises ModelNotReady."""
        await self._first(self._greeted, timeout_s=START_S)
        if self.hello is None:
            if self.pid is not None and not self._lost.is_set():
                raise ModelNotReady(f"The torch host did not connect within {START_S:g} s.")
            raise ModelNotReady(await self.ended())
        assert self._server is not None
        self._server.close()  # there is one child, and it is here
        self._watching = asyncio.create_task(
            self.watchdog.watch(self._workload, self.kill), name="watch torch host"
        )

    async def ended(self) -> str:
        """Wait until the child ends or hangs up, and is gone; the reason, as a sentence."""
        await self._first(self._lost)
        ending = await self._ending()
        await self._end()
        await asyncio.to_thread(self._log.drain)
        if self._killed_for is not None:
            ending = f"{self._killed_for}, and was killed"
        last = self._log.tail()[-1:]
        return f"The torch host {ending}" + (f"; last log line: {last[0]}" if last else ".")

    async def aclose(self) -> None:
        """End the child, and free socket and log."""
        if self._watching is not None:
            self._watching.cancel()
        await self._end()
        if self._server is not None:
            self._server.close()
        self._path.unlink(missing_ok=True)
        await asyncio.to_thread(self._log.drain)

    def _accept(self) -> "FrameProtocol[FromHost]":
        self._protocol = FrameProtocol(
            msgpack.Decoder(FromHost), on_message=self._receive, on_lost=self._lost.set
        )
        return self._protocol

    def _receive(self, message: FromHost) -> None:
        self.watchdog.heard()
        match message:
            case Hello():
                self.hello = message
                self._greeted.set()
            case Heartbeat(turns=turns, resting=resting):
                if resting or turns != self._turns:
                    self.watchdog.stepped()
                self._turns = turns
            case Events() | PromptScores():
                self.watchdog.stepped()
                self._on_message(message)
            case _:
                self._on_message(message)

    async def _first(self, event: asyncio.Event, *, timeout_s: float | None = None) -> None:
        """Wait for an event, or until the child ends or hangs up."""
        assert self._process is not None
        waits = {
            asyncio.ensure_future(each)
            for each in (event.wait(), self._lost.wait(), self._process.wait())
        }
        try:
            await asyncio.wait(waits, timeout=timeout_s, return_when=_FIRST)
        finally:
            for wait in waits:
                wait.cancel()

    async def _ending(self) -> str:
        """Describe how the child ended; one that only disconnected gets time to exit by itself."""
        assert self._process is not None
        try:
            async with asyncio.timeout(STOP_S):
                status = await self._process.wait()
        except TimeoutError:
            return "hung up"
        if status < 0:
            return f"was killed by {signal.Signals(-status).name}"
        return f"ended with status {status}"

    async def _end(self) -> None:
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.terminate()
        try:
            async with asyncio.timeout(STOP_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
