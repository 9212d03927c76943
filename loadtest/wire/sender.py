"""Sends each request at its planned time on a kept-alive connection, and times its exchange."""

import asyncio
import ssl
import time

from loadtest.wire.connection import Answer, Connection
from loadtest.wire.messages import Exchange, Send

#: A connection idle for longer is not used again: servers close theirs after 5 s or more.
_IDLE_LIMIT_NS = 2_000_000_000


class Sender:
    """Requests to one service: as many connections as exchanges are under way."""

    def __init__(self, host: str, port: int, *, tls: bool) -> None:
        self._host = host
        self._port = port
        self._tls = ssl.create_default_context() if tls else None
        self._idle: list[tuple[int, Connection]] = []

    async def exchange(self, send: Send) -> Exchange:
        """Wait for the planned time, send, and read the answer to its end or its time limit."""
        await _sleep_until(send.planned_ns)
        dispatched_ns = time.monotonic_ns()
        answer = Answer()
        sent_ns: int | None = None
        problem: str | None = None
        connection: Connection | None = None
        try:
            async with asyncio.timeout(send.timeout_s):
                connection = await self._connection()
                sent_ns = time.monotonic_ns()
                await connection.exchange(send.request, answer)
        except TimeoutError:
            problem = "timeout"
        except OSError as error:
            problem = str(error) if type(error) is ConnectionError else type(error).__name__
        ended_ns = time.monotonic_ns()
        if connection is not None:
            self._keep(connection, whole=problem is None)
        return Exchange(
            key=send.key,
            dispatched_ns=dispatched_ns,
            sent_ns=sent_ns,
            head_ns=answer.head_ns,
            status=answer.status,
            request_id=answer.request_id,
            pieces=answer.pieces,
            ended_ns=ended_ns,
            problem=problem,
        )

    async def _connection(self) -> Connection:
        while self._idle:
            idle_since_ns, connection = self._idle.pop()
            fresh = time.monotonic_ns() - idle_since_ns < _IDLE_LIMIT_NS
            if connection.open and fresh:
                return connection
            connection.close()
        loop = asyncio.get_running_loop()
        _, opened = await loop.create_connection(Connection, self._host, self._port, ssl=self._tls)
        return opened

    def _keep(self, connection: Connection, *, whole: bool) -> None:
        if whole and connection.open:
            self._idle.append((time.monotonic_ns(), connection))
        else:
            connection.close()


async def _sleep_until(moment_ns: int) -> None:
    # Timers of event loops count milliseconds and may fire early.
    while (delay_ns := moment_ns - time.monotonic_ns()) > 0:  # noqa: ASYNC110
        await asyncio.sleep(delay_ns / 1e9)
