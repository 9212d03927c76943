"""Listens, and leaves politely: refuse new work, let running answers end, then close."""

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import uvicorn

from service.core.errors import ConfigError


def listen(host: str, port: int) -> socket.socket:
    """A bound socket, so that a taken port is an error before anything is loaded."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        bound = socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {host}:{port} ({os.strerror(error.errno or 0)}); "
            "choose another with --port or --host"
        ) from error
    # asyncio sets it only where a socket names its protocol, which those accepted here do not. Left
    # unset, every second small write waits 40 ms for the client's delayed acknowledgement.
    bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return bound


def address(bound: socket.socket) -> str:
    """The URL that a client uses."""
    host, port = bound.getsockname()[:2]
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104 (shown, not bound)
    return f"http://{shown}:{port}"


class _Server(uvicorn.Server):
    """uvicorn with its signals left to us, because a drain comes before its shutdown."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take no signal."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Tell when connections are accepted."""
        await super().startup(sockets)
        self.ready.set()


async def serve(
    app: Any,  # noqa: ANN401 (any ASGI application)
    bound: socket.socket,
    *,
    on_ready: Callable[[], Awaitable[None]],
    drain: Callable[[], Awaitable[None]],
) -> None:
    """Serve *app* until SIGTERM or SIGINT, then drain and close; a second signal closes at once."""
    server = _Server(
        uvicorn.Config(
            app, log_config=None, access_log=False, lifespan="on", server_header=False,
            timeout_graceful_shutdown=5,
        )
    )  # fmt: skip
    stopping = asyncio.Event()

    def stop() -> None:
        if stopping.is_set():
            server.force_exit = True
            draining.cancel()
        stopping.set()

    async def drain_when_told() -> None:
        await stopping.wait()
        await drain()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    serving = asyncio.create_task(server.serve(sockets=[bound]))
    ready = asyncio.create_task(_after(server.ready, on_ready))
    draining = asyncio.create_task(drain_when_told())
    await asyncio.wait({serving, draining}, return_when=asyncio.FIRST_COMPLETED)
    ready.cancel()
    draining.cancel()
    server.should_exit = True
    await serving
    for outcome in await asyncio.gather(ready, draining, return_exceptions=True):
        if isinstance(outcome, Exception):
            raise outcome


async def _after(event: asyncio.Event, action: Callable[[], Awaitable[None]]) -> None:
    await event.wait()
    await action()
