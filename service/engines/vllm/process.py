"""One life of a vLLM server: its processes, its socket and its log."""

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
from service.engines.vllm import guardian
from service.engines.vllm.log import StartReader, cause, tail

LOOK_EVERY_S: Final = 0.1
"""How often a server that starts is looked at."""

HEALTH_S: Final = 5.0
"""Longest wait for the answer of a server that may not be there yet."""

STOP_S: Final = 6.0
"""How long a server that was told to end may take before its processes are killed."""

_FIRST: Final = asyncio.FIRST_COMPLETED


class VllmProcess:
    """Starts the server, says when it answers, and why it ended.

    A guardian of the standard library's alone stands between the service and the server: it ends
    all of the server's processes when the server dies, and when the service does.
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
            environment: All of its environment.
            socket: Path of its UNIX socket.
            log_path: Takes what it writes; the log of the life before is kept as `….1`.
            on_progress: Told how far the start has come.
        """
        self._words = words
        self._environment = environment
        self.socket = socket
        self._log_path = log_path
        self._on_progress = on_progress
        self._guardian: asyncio.subprocess.Process | None = None
        self._group: int | None = None
        self._alive = False
        self._ended: asyncio.Task[int] | None = None

    @property
    def pid(self) -> int | None:
        """The server's process id, which is its process group, while it lives."""
        return self._group if self._alive else None

    async def start(self) -> None:
        """Start the server. Raises OSError if it cannot be."""
        self._log_path.parent.mkdir(parents=True, exist_ok=True)
        if self._log_path.exists():
            self._log_path.replace(self._log_path.with_suffix(".log.1"))
        self.socket.unlink(missing_ok=True)
        with self._log_path.open("wb") as log:
            self._guardian = await asyncio.create_subprocess_exec(
                sys.executable,
                "-I",
                guardian.__file__,
                *self._words,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env=self._environment,
                start_new_session=True,  # a terminal's Ctrl-C is for the service alone
            )
        self._group = await self._told()
        self._alive = self._group is not None
        self._ended = asyncio.create_task(self._wait())

    async def ready(self, *, start_s: float) -> bool:
        """Wait until the server answers, for *start_s* seconds at most; whether it does."""
        assert self._ended is not None
        answers = asyncio.create_task(self._wait_until_healthy())
        try:
            await asyncio.wait({self._ended, answers}, timeout=start_s, return_when=_FIRST)
            if answers.done():
                answers.result()
            return answers.done() and not self._ended.done()
        finally:
            answers.cancel()

    async def ended(self) -> str:
        """Wait until the server ends; how it did, in its own words where it had any."""
        assert self._ended is not None
        status = await asyncio.shield(self._ended)
        return await asyncio.to_thread(self._ending, status)

    async def aclose(self) -> None:
        """Let the server clean up, and have what is left of it killed."""
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
        self.socket.unlink(missing_ok=True)

    async def _wait(self) -> int:
        """Exit status of the server, below 0 where a signal ended its guardian."""
        assert self._guardian is not None
        status = await self._told()
        self._alive = False
        return await self._guardian.wait() if status is None else status

    async def _told(self) -> int | None:
        """The next number that the guardian tells, None if it is gone."""
        assert self._guardian is not None
        assert self._guardian.stdout is not None
        line = await self._guardian.stdout.readline()
        return int(line) if line.strip() else None

    async def _wait_until_healthy(self) -> None:
        reader = StartReader()
        transport = httpx.AsyncHTTPTransport(uds=str(self.socket))
        with self._log_path.open("rb") as log:
            async with httpx.AsyncClient(transport=transport, timeout=HEALTH_S) as client:
                while True:
                    self._on_progress(reader.feed(log.read().decode("utf-8", "replace")))
                    with contextlib.suppress(httpx.HTTPError):
                        if (await client.get("http://vllm/health")).is_success:
                            return
                    await asyncio.sleep(LOOK_EVERY_S)

    def _ending(self, status: int) -> str:
        """How it ended, as the end of a sentence about it."""
        if status < 0:
            return f"lost its guardian to {signal.Signals(-status).name}"
        number = status - 128
        if number in signal.valid_signals():
            return f"was killed by {signal.Signals(number).name}"
        lines = tail(self._log_path)
        reason = cause(lines) or (lines[-1].strip() if lines else None)
        return f"ended with status {status}" + (f": {reason}" if reason else "")
