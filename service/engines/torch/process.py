"""One life of a torch host: a child process, its socket and its log."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Final

from msgspec import msgpack

from service.engines.supervision import last_line, socket_path
from service.engines.torch.protocol.frames import FrameProtocol
from service.engines.torch.protocol.last_step import LastStep
from service.engines.torch.protocol.messages import FromHost, ToHost

START_S: Final = 120.0
"""Longest time that a host may take to import torch and connect."""

STOP_S: Final = 5.0
"""How long a host that was told to end may take before it is killed."""

SPIN_COUNT: Final = 20_000
"""How often an OpenMP thread that waits looks again before it sleeps.

That is some tenths of a millisecond: longer than the gaps between a step's parallel regions, where
to fall asleep and be woken costs 20 to 50 µs each, and soon over when a step has ended, so that the
service and the tokenizers get the core. By default libgomp looks for milliseconds.
"""

CPU_QUOTA: Final = Path("/sys/fs/cgroup/cpu.max")
"""Where a container reads how much processor time it may use: µs in each period, and the period."""

_FIRST: Final = asyncio.FIRST_COMPLETED


def default_threads() -> int:
    """`OMP_NUM_THREADS` where it is set, else all cores that this process may use.

    The service needs little of a core, and is given it: threads that wait sleep soon.
    """
    wanted = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    if wanted.isdecimal() and int(wanted):
        return int(wanted)
    return min(len(os.sched_getaffinity(0)), _quota_cores())


def _quota_cores() -> int:
    """Whole cores of the container's quota, many where there is none."""
    try:
        quota_us, period_us = map(int, CPU_QUOTA.read_text(encoding="ascii").split())
    except (OSError, ValueError):  # no cgroup of version 2, or no limit: `max 100000`
        return sys.maxsize
    return max(1, quota_us // period_us)


class HostProcess:
    """Starts the child, listens for it, and says why it ended.

    The child connects to a socket that only this user can reach and ends when the connection does,
    so it cannot outlive the service.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        threads: int,
        heartbeat_s: float,
        on_message: Callable[[FromHost], None],
    ) -> None:
        self._data_dir = data_dir
        self._threads = threads
        self._heartbeat_s = heartbeat_s
        self._on_message = on_message
        self._last_step: LastStep | None = None
        self._killed_for: str | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._protocol: FrameProtocol[FromHost] | None = None
        self._lost = asyncio.Event()
        self._connected = asyncio.Event()

    @property
    def pid(self) -> int | None:
        """The child's process id while it lives."""
        alive = self._process is not None and self._process.returncode is None
        return self._process.pid if alive and self._process else None

    def send(self, message: ToHost) -> None:
        """Queue a message; a no-op without a connection."""
        if self._protocol is not None:
            self._protocol.send(message)

    def kill(self, reason: str) -> None:
        """End the child at once, even a stopped one; *reason* says what it did wrong."""
        if self.pid is not None and self._process is not None:
            self._killed_for = reason
            self._process.kill()

    def last_step(self) -> tuple[str, ...]:
        """Ids of the requests that its engine computes for, or did when it ended; may be none."""
        return self._last_step.read() if self._last_step is not None else ()

    async def run(self) -> str:
        """Live through one child; returns why it ended. Cancelling ends the child."""
        log_path = self._data_dir / "logs" / "torch-host.log"
        log_path.parent.mkdir(parents=True, exist_ok=True)
        path = socket_path(self._data_dir, f"torch-{os.getpid()}.sock")
        running = asyncio.get_running_loop()
        server = await running.create_unix_server(self._accept, str(path))
        try:
            with log_path.open("ab") as output:
                log_start = output.tell()
                self._process = await self._spawn(path, output)
            try:
                ended = await self._wait(server)
            finally:
                await self._end()
            if self._killed_for is not None:
                ended = f"{self._killed_for}, and was killed"
        finally:
            server.close()
            path.unlink(missing_ok=True)
        last = last_line(log_path, log_start)
        return f"The torch host {ended}" + (f"; its last words were: {last}" if last else ".")

    def _accept(self) -> "FrameProtocol[FromHost]":
        self._protocol = FrameProtocol(
            msgpack.Decoder(FromHost), on_message=self._on_message, on_lost=self._lost.set
        )
        self._connected.set()
        return self._protocol

    async def _spawn(self, path: Path, output: BinaryIO) -> asyncio.subprocess.Process:
        shared = LastStep.create()
        try:
            self._last_step = LastStep(shared)
            return await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "service.torch_host.__main__"),
                *("--socket", str(path)),
                *("--threads", str(self._threads)),
                *("--heartbeat", str(self._heartbeat_s)),
                *("--last-step", str(shared)),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment(self._threads, self._data_dir),
                pass_fds=(shared,),
                start_new_session=True,  # a terminal's Ctrl-C is for the service alone
            )
        finally:
            os.close(shared)

    async def _wait(self, server: asyncio.Server) -> str:
        """Until the child ends or hangs up; how it ended."""
        assert self._process is not None
        ended = asyncio.ensure_future(self._process.wait())
        lost = asyncio.ensure_future(self._lost.wait())
        connected = asyncio.ensure_future(self._connected.wait())
        try:
            await asyncio.wait({ended, connected}, timeout=START_S, return_when=_FIRST)
            if connected.done():
                server.close()  # there is one child, and it is here
                await asyncio.wait({ended, lost}, return_when=_FIRST)
                await asyncio.wait({ended}, timeout=STOP_S)
        finally:
            for task in (ended, lost, connected):
                task.cancel()
        if not ended.done():
            return "hung up" if connected.done() else f"did not connect within {START_S:g} s"
        status = ended.result()
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


def environment(threads: int, data_dir: Path) -> dict[str, str]:
    """The child's environment; what tunes it gives way to what the operator has set."""
    # Every step allocates a few large tensors and frees them. By default glibc gives such memory
    # back to the system and takes it anew page by page, which halves the speed of SSM decode.
    allocator = {
        "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
        "MALLOC_TRIM_THRESHOLD_": str(256 * 2**20),
        # Weights in pages of 2 MiB where the system gives them: fewer are looked up a step.
        "THP_MEM_ALLOC_ENABLE": "1",
    }
    kernels = {"NUMBA_CACHE_DIR": str((data_dir / "cache" / "kernels").resolve())}
    # A spin count would undo a policy that the operator has set. Threads are not pinned to cores
    # (OMP_PROC_BIND): one whose core another process takes could not move to a free one, and all
    # others would wait for it.
    waiting = {} if "OMP_WAIT_POLICY" in os.environ else {"GOMP_SPINCOUNT": str(SPIN_COUNT)}
    return (allocator | kernels | waiting | os.environ) | {
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "PYTHONUNBUFFERED": "1",
    }
