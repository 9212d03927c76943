"""VllmProcess: the processes of one vLLM server, its socket and its log."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import httpx

from service.core.ports import LoadProgress
from service.engines.supervision.child_log import ChildLog
from service.engines.vllm import guardian
from service.engines.vllm.log import StartReader, cause

LOOK_EVERY_S: Final = 0.1
"""Interval between two health checks of a server that starts."""

HEALTH_S: Final = 5.0
"""Longest wait for one health check."""

STOP_S: Final = 6.0
"""Time that a server gets to end by itself before its processes are killed."""

_FIRST: Final = asyncio.FIRST_COMPLETED


class VllmProcess:
    """Starts the server, waits until it answers, and reports why it ended.

    A guardian that imports only the standard library stands between the service and the server: it
    ends all processes of the server when the server dies, and when the service does.
    """

    def __init__(
        self,
        words: Sequence[str],
        environment: dict[str, str],
        *,
        socket: Path,
        log_path: Path,
        on_progress: Callable[[LoadProgress], None],
    ) -> None:
        """Start nothing yet.

        Args:
            words: Command line of the server, which listens on *socket*.
            environment: Its complete environment.
            socket: Path of its UNIX socket.
            log_path: Log of its output, one generation a life.
            on_progress: Called with the progress of the start.
        """
        self._words = words
        self._environment = environment
        self.socket = socket
        self._on_progress = on_progress
        self._reader = StartReader()
        self._log = ChildLog(log_path, on_text=self._read)
        self._guardian: asyncio.subprocess.Process | None = None
        self._group: int | None = None
        self._alive = False
        self._killed_for: str | None = None
        self._ended: asyncio.Task[int] | None = None

    @property
    def pid(self) -> int | None:
        """Process id, and process group id, of the server while it lives."""
        return self._group if self._alive else None

    async def start(self) -> None:
        """Start the server. Raises OSError."""
        self.socket.unlink(missing_ok=True)
        output = self._log.open()
        try:
            self._guardian = await asyncio.create_subprocess_exec(
                sys.executable,
                "-I",
                guardian.__file__,
                *self._words,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=output,
                env=self._environment,
                start_new_session=True,  # a terminal's Ctrl-C is for the service alone
            )
        finally:
            os.close(output)
        self._group = await self._told()
        self._alive = self._group is not None
        self._ended = asyncio.create_task(self._wait())

    async def ready(self, *, start_s: float) -> bool:
        """Wait until the server answers, *start_s* seconds at most; True if it does."""
        assert self._ended is not None
        answers = asyncio.create_task(self._wait_until_healthy())
        try:
            await asyncio.wait({self._ended, answers}, timeout=start_s, return_when=_FIRST)
            if answers.done():
                answers.result()
            return answers.done() and not self._ended.done()
        finally:
            answers.cancel()

    def kill(self, reason: str) -> None:
        """Kill all processes of the server, stopped ones too; *reason* is told by `ended`."""
        if self._alive and self._group is not None:
            self._killed_for = reason
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._group, signal.SIGKILL)

    async def ended(self) -> str:
        """Wait until the server has ended; the reason, as the end of a sentence about it."""
        assert self._ended is not None
        status = await asyncio.shield(self._ended)
        if self._killed_for is not None:
            return f"{self._killed_for}, and was killed"
        await asyncio.to_thread(self._log.drain)
        return self._ending(status)

    async def aclose(self) -> None:
        """Let the server clean up, then have what is left of it killed."""
        process = self._guardian
        if process is None:
            return
        try:
            if self._alive and self._group is not None:
                self._alive = False
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self._group, signal.SIGTERM)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(STOP_S):
                        await process.wait()
        finally:
            assert process.stdin is not None
            process.stdin.close()  # the guardian ends what is left, also if nobody waits for it
        if await process.wait() < 0 and self._group is not None:
            await asyncio.to_thread(guardian.end_group, self._group)  # it could not do so itself
        if self._ended is not None:
            await asyncio.wait([self._ended])
        assert process.stdout is not None
        await process.stdout.read()  # its end closes the pipes
        await asyncio.to_thread(self._log.drain)
        self.socket.unlink(missing_ok=True)

    async def _wait(self) -> int:
        """Exit status of the server; negative if a signal ended its guardian."""
        assert self._guardian is not None
        status = await self._told()
        self._alive = False
        return await self._guardian.wait() if status is None else status

    async def _told(self) -> int | None:
        """The next number from the guardian; None if it has exited."""
        assert self._guardian is not None
        assert self._guardian.stdout is not None
        line = await self._guardian.stdout.readline()
        return int(line) if line.strip() else None

    def _read(self, text: str) -> None:
        """Follow the log; runs on its thread."""
        self._reader.feed(text)

    async def _wait_until_healthy(self) -> None:
        transport = httpx.AsyncHTTPTransport(uds=str(self.socket))
        async with httpx.AsyncClient(transport=transport, timeout=HEALTH_S) as client:
            while True:
                self._on_progress(self._reader.progress)
                with contextlib.suppress(httpx.HTTPError):
                    if (await client.get("http://vllm/health")).is_success:
                        return
                await asyncio.sleep(LOOK_EVERY_S)

    def _ending(self, status: int) -> str:
        if status < 0:
            return f"lost its guardian to {signal.Signals(-status).name}"
        number = status - 128
        if number in signal.valid_signals():
            return f"was killed by {signal.Signals(number).name}"
        lines = self._log.tail()
        reason = cause(lines) or (lines[-1].strip() if lines else None)
        return f"ended with status {status}" + (f": {reason}" if reason else "")
