"""The torch host process: `python -m service.torch_host.__main__ --socket PATH --threads N …`.

Connects to the service's UNIX socket and serves it until the connection ends, however the service
ends, or until SIGTERM. The service sets the environment, since OpenMP reads it when torch is first
imported: threads that spin while they wait starve all other processes.
"""

import argparse
import asyncio
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Final

CPU_FEATURES: Final = (
    "avx2",
    "avx512f",
    "avx512bf16",
    "avx512vnni",
    "amx-bf16",
    "amx-int8",
    "neon",
    "bf16",
    "i8mm",
    "sve",
)
"""LLVM's names of the instruction sets that kernels are specialized for."""

STOP_S: Final = 2.0
"""Longest wait for the running step at shutdown."""

log = logging.getLogger("service.torch_host.__main__")


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve one connection; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m service.torch_host.__main__")
    parser.add_argument("--socket", type=Path, required=True, help="UNIX socket to connect to")
    parser.add_argument("--threads", type=int, required=True, help="threads to compute with")
    parser.add_argument(
        "--heartbeat", type=float, default=1.0, help="seconds between two heartbeats"
    )
    parser.add_argument(
        "--last-step",
        type=int,
        help="descriptor of memory that records the requests of each step",
    )
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the service, which ends us
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level="WARNING")
    problem = environment_problem(options.threads)
    if problem:
        log.error("%s", problem)
        return os.EX_USAGE
    return asyncio.run(_serve(options.socket, options.heartbeat, options.last_step))


def environment_problem(threads: int) -> str | None:
    """Describe what is wrong with the environment that torch will read; None if it is right."""
    given = os.environ.get("OMP_NUM_THREADS")
    if given != str(threads):
        return f"OMP_NUM_THREADS must be {threads} before torch is imported, not {given}"
    if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
        return "GOMP_SPINCOUNT or OMP_WAIT_POLICY must be set before torch is imported"
    return "torch was imported too early" if "torch" in sys.modules else None


async def _serve(address: Path, heartbeat_s: float, last_step: int | None) -> int:
    # Imported here, after the environment was checked.
    import torch
    from msgspec import msgpack

    from service.engines.torch.protocol.frames import FrameProtocol, host_frames
    from service.engines.torch.protocol.last_step import LastStep
    from service.engines.torch.protocol.messages import FromHost, Hello, ToHost
    from service.torch_host.dispatcher import Dispatcher
    from service.torch_host.faults import log_fault
    from service.torch_host.loop import EngineLoop
    from service.torch_host.outbox import Outbox
    from service.torch_host.weights.build import ENGINE_VERSION, device_name

    running = asyncio.get_running_loop()
    ended: asyncio.Future[int] = running.create_future()

    def end(status: int) -> None:
        if not ended.done():
            ended.set_result(status)

    def send(message: FromHost) -> None:
        outbox.send(host_frames(message))

    def run_engine() -> None:
        try:
            engine.run()
        except BaseException as error:  # noqa: BLE001 - end the process: the service restarts it
            log_fault(log, "the engine loop", error)
            running.call_soon_threadsafe(end, os.EX_SOFTWARE)

    def fatal(error: BaseException) -> None:
        log_fault(log, "a task of the host", error)
        end(os.EX_SOFTWARE)

    async def beat() -> None:
        while True:
            await asyncio.sleep(heartbeat_s)
            send(engine.heartbeat)

    connection = socket.socket(socket.AF_UNIX)
    connection.connect(str(address))
    outbox = Outbox(connection, running)
    engine = EngineLoop(send, last_step=None if last_step is None else LastStep(last_step))
    dispatcher = Dispatcher(engine, send, fatal)
    await running.create_unix_connection(
        lambda: FrameProtocol(
            msgpack.Decoder(ToHost),
            on_message=dispatcher.handle,
            on_lost=lambda: end(os.EX_OK),
        ),
        sock=connection,
    )
    running.add_signal_handler(signal.SIGTERM, end, os.EX_OK)
    thread = threading.Thread(target=run_engine, name="engine", daemon=True)
    thread.start()
    spins = os.environ.get("GOMP_SPINCOUNT", "")
    send(
        Hello(
            engine_version=ENGINE_VERSION,
            device=device_name(),
            threads=torch.get_num_threads(),
            wait_policy=os.environ.get("OMP_WAIT_POLICY"),
            spin_count=int(spins) if spins.isdecimal() else None,
            cpu_features=_cpu_features(),
        )
    )
    beating = asyncio.create_task(beat())
    status = await ended
    beating.cancel()
    engine.stop()
    await running.run_in_executor(None, thread.join, STOP_S)
    outbox.close()
    return status


def _cpu_features() -> tuple[str, ...]:
    from service.torch_host.compiled.codegen.cpu_features import target_features

    return tuple(name for name in CPU_FEATURES if name in target_features())


if __name__ == "__main__":
    _status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # A thread may still be inside torch or a tokenizer, which the interpreter's own end waits for
    # or crashes in; everything that matters is on the other side of the socket.
    os._exit(_status)
