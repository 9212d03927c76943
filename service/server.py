"""Run the HTTP server and shut it down gracefully."""

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, ClassVar, Final

import uvicorn
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from service.core.errors import ConfigError
from service.settings import HttpSettings

CLOSE_S: Final = 2
"""How long open connections get to end after the drain, in seconds."""


def listen(host: str, port: int) -> socket.socket:
    """Bind a socket. Raises ConfigError, before anything is loaded, if the port is taken."""
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


class TimedHttpProtocol(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
    """uvicorn's HTTP protocol, which closes connections that send no request in time.

    uvicorn itself limits only the pause between a response and the next request.
    """

    idle_s: ClassVar[float] = 60.0
    head_s: ClassVar[float] = 10.0

    def __init__(self, *arguments: Any, **options: Any) -> None:  # noqa: ANN401 (uvicorn's)
        super().__init__(*arguments, **options)
        self.timeout_keep_alive = self.idle_s
        self._head_limit: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Wait for the first request's head."""
        super().connection_made(transport)
        self._limit_head()

    def data_received(self, data: bytes) -> None:
        """Wait for the rest of a head that has begun, and no longer for one that is complete."""
        before = self.cycle
        super().data_received(data)
        if self.cycle is not before:
            self._unlimit_head()
        elif self._head_limit is None and (before is None or before.response_complete):
            self._limit_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the limit."""
        self._unlimit_head()
        super().connection_lost(exc)

    def _limit_head(self) -> None:
        self._head_limit = self.loop.call_later(self.head_s, self._close_late)

    def _unlimit_head(self) -> None:
        if self._head_limit is not None:
            self._head_limit.cancel()
            self._head_limit = None

    def _close_late(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()


def protocol_with(limits: HttpSettings) -> type[asyncio.Protocol]:
    """The protocol class that holds connections to these limits."""
    return type(
        "TimedHttpProtocol",
        (TimedHttpProtocol,),
        {"idle_s": limits.idle_s, "head_s": limits.head_s},
    )


class _Server(uvicorn.Server):
    """uvicorn without its signal handling: draining comes before its shutdown."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take no signal."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Set `ready` when connections are accepted."""
        await super().startup(sockets)
        self.ready.set()


async def serve(
    app: Any,  # noqa: ANN401 (any ASGI application)
    bound: socket.socket,
    *,
    limits: HttpSettings,
    on_ready: Callable[[], Awaitable[None]],
    drain: Callable[[], Awaitable[None]],
    abort: Callable[[], Awaitable[None]],
) -> None:
    """Serve *app* until SIGTERM or SIGINT.

    Then *drain* lets running requests end while connections are still accepted, so that newcomers
    are told; *abort* interrupts the rest, and the server closes. A second signal cuts the drain
    short.
    """
    server = _Server(
        uvicorn.Config(
            app,
            http=protocol_with(limits),
            log_config=None,
            access_log=False,
            lifespan="on",
            server_header=False,
            timeout_graceful_shutdown=CLOSE_S,
        )
    )
    signals = asyncio.Queue[int]()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, signals.put_nowait, number)
    serving = asyncio.create_task(server.serve(sockets=[bound]))
    ready = asyncio.create_task(_after(server.ready, on_ready))
    stopped = asyncio.create_task(signals.get())
    await _first_of(serving, stopped)
    ready.cancel()
    phases: list[asyncio.Future[Any]] = [ready]
    if stopped.done():
        draining = asyncio.ensure_future(drain())
        again = asyncio.create_task(signals.get())
        await _first_of(serving, draining, again)
        draining.cancel()
        again.cancel()
        await abort()
        phases.append(draining)
    stopped.cancel()
    server.should_exit = True
    await serving
    for outcome in await asyncio.gather(*phases, return_exceptions=True):
        if isinstance(outcome, Exception):
            raise outcome


async def _first_of(*tasks: "asyncio.Future[Any]") -> None:
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)


async def _after(event: asyncio.Event, action: Callable[[], Awaitable[None]]) -> None:
    await event.wait()
    await action()
