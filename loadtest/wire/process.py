"""The measuring process as the load test holds it: orders in, exchanges out."""

import asyncio
import contextlib
import sys
from types import TracebackType
from typing import Any, Self

import msgspec

from loadtest.address import Address
from loadtest.errors import LoadTestError
from loadtest.wire.messages import Exchange, Measure, Report, Send, Vitals, frame, read_frame

_END_S = 5.0


class WireProcess:
    """Starts the process on entry; leaving abandons exchanges in flight and ends it."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._exchanges: dict[int, asyncio.Future[Exchange]] = {}
        self._vitals: list[asyncio.Future[Vitals]] = []

    async def __aenter__(self) -> Self:
        scheme = "https" if self._address.tls else "http"
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "loadtest.wire",
            self._address.host, str(self._address.port), scheme,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,  # Ctrl-C reaches the load test, which ends this process
        )  # fmt: skip
        self._reading = asyncio.create_task(self._read())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._reading is not None
        self._process.stdin.close()
        try:
            async with asyncio.timeout(_END_S):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
        self._reading.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._reading

    async def exchange(self, send: Send) -> Exchange:
        """Have a request sent at its time; return when it has ended.

        Raises:
            LoadTestError: The process died.
        """
        waiting: asyncio.Future[Exchange] = asyncio.get_running_loop().create_future()
        self._exchanges[send.key] = waiting
        try:
            self._order(send)
            return await waiting
        finally:
            self._exchanges.pop(send.key, None)

    async def vitals(self) -> Vitals:
        """CPU time so far, and loop lags since the last call. Raises LoadTestError."""
        waiting: asyncio.Future[Vitals] = asyncio.get_running_loop().create_future()
        self._vitals.append(waiting)
        self._order(Measure())
        return await waiting

    def _order(self, order: Send | Measure) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        if self._reading is None or self._reading.done():
            raise LoadTestError("the measuring process ended")
        self._process.stdin.write(frame(order))

    async def _read(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        try:
            while True:
                body = await read_frame(self._process.stdout)
                match msgspec.msgpack.decode(body, type=Report):
                    case Exchange() as exchange:
                        if (asker := self._exchanges.get(exchange.key)) and not asker.done():
                            asker.set_result(exchange)
                    case Vitals() as vitals:
                        if not (reader := self._vitals.pop(0)).done():
                            reader.set_result(vitals)
        except asyncio.IncompleteReadError:
            waiting: list[asyncio.Future[Any]] = [*self._exchanges.values(), *self._vitals]
            for future in waiting:
                if not future.done():
                    future.set_exception(LoadTestError("the measuring process ended"))
