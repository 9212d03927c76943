"""The engine host process: `python -m service.torch_host.__main__ --socket PATH --threads N …`.

Connects to the service's UNIX socket and serves it until the connection ends: with the service's
death, however it comes, or with SIGTERM. The service sets the environment, since OpenMP reads it
when torch is first imported: threads that spin for as long as they wait starve all other processes.
"""

import argparse
import asyncio
import logging
import os
import signal
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
"""LLVM's names of the instruction sets that make a difference to kernels."""

STOP_S: Final = 2.0
"""How long a step may still take when the host is told to end."""

log = logging.getLogger("service.torch_host.__main__")


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve one connection; the process's exit status."""
    parser = argparse.ArgumentParser(prog="python -m service.torch_host.__main__")
    parser.add_argument("--socket", type=Path, required=True, help="UNIX socket to connect to")
    parser.add_argument(
        "--threads", type=int, required=True, help="threads that torch computes with"
    )
    parser.add_argument(
        "--heartbeat", type=float, default=1.0, help="seconds between two signs of life"
    )
    parser.add_argument(
        "--last-step", type=int, help="descriptor of memory to note each step's requests in"
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
    """What is wrong with the environment that torch would read, None if nothing."""
    given = os.environ.get("OMP_NUM_THREADS")
    if given != str(threads):
        return f"OMP_NUM_THREADS must be {threads} before torch is imported, not {given}"
    if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
        return "GOMP_SPINCOUNT or OMP_WAIT_POLICY must be set before torch is imported"
    return "torch was imported too early" if "torch" in sys.modules else None


async def _serve(socket: Path, heartbeat_s: float, last_step: int | None) -> int:
    # Imported here, after the environment was checked.
    import torch
    from msgspec import msgpack

    from service.engines.torch.protocol.frames import FrameProtocol
    from service.engines.torch.protocol.last_step import LastStep
    from service.engines.torch.protocol.messages import FromHost, Hello, ToHost, frame
    from service.torch_host.dispatch import Dispatch
    from service.torch_host.loop import EngineLoop
    from service.torch_host.weights.loading import ENGINE_VERSION, device_name

    running = asyncio.get_running_loop()
    ended: asyncio.Future[int] = running.create_future()

    def end(status: int) -> None:
        if not ended.done():
            ended.set_result(status)

    def send(message: FromHost) -> None:
        running.call_soon_threadsafe(protocol.send_frame, frame(message))

    def run_engine() -> None:
        try:
            engine.run()
        except (
            BaseException
        ):  # the process must not outlive its engine: end it, the service restarts it
            log.exception("the engine loop failed")
            running.call_soon_threadsafe(end, os.EX_SOFTWARE)
            raise

    def fatal(error: BaseException) -> None:
        log.error("a task of the host failed", exc_info=error)
        end(os.EX_SOFTWARE)

    async def beat() -> None:
        while True:
            await asyncio.sleep(heartbeat_s)
            protocol.send(engine.heartbeat)

    engine = EngineLoop(send, last_step=None if last_step is None else LastStep(last_step))
    dispatch = Dispatch(engine, send, fatal)
    _, protocol = await running.create_unix_connection(
        lambda: FrameProtocol(
            msgpack.Decoder(ToHost),
            on_message=dispatch.handle,
            on_lost=lambda: end(os.EX_OK),
        ),
        str(socket),
    )
    running.add_signal_handler(signal.SIGTERM, end, os.EX_OK)
    thread = threading.Thread(target=run_engine, name="engine", daemon=True)
    thread.start()
    spins = os.environ.get("GOMP_SPINCOUNT", "")
    protocol.send(
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
