"""`python -m loadtest.wire HOST PORT http|https`: orders on stdin, reports on stdout."""

import asyncio
import contextlib
import gc
import os
import sys
import time

import msgspec
import uvloop

from loadtest.wire.messages import Measure, Order, Report, Send, Vitals, frame, read_frame
from loadtest.wire.sender import Sender

_TICK_S = 0.02
_CUT = (asyncio.IncompleteReadError, ConnectionError)


class Reporter:
    """Carries out orders until stdin ends."""

    def __init__(self, sender: Sender, output: asyncio.WriteTransport) -> None:
        self._sender = sender
        self._output = output
        self._loop_lags_ns: list[int] = []

    async def obey(self, orders: asyncio.StreamReader) -> None:
        """Take orders until there are no more; exchanges still in flight then are abandoned.

        An error nobody expects ends the process, which its owner sees.
        """
        running: set[asyncio.Task[None]] = set()
        async with asyncio.TaskGroup() as group:
            running.add(group.create_task(self._tick()))
            with contextlib.suppress(*_CUT):
                while True:
                    match msgspec.msgpack.decode(await read_frame(orders), type=Order):
                        case Send() as send:
                            task = group.create_task(self._exchange(send))
                            running.add(task)
                            task.add_done_callback(running.discard)
                        case Measure():
                            self._report(self._vitals())
            for task in running:
                task.cancel()

    async def _exchange(self, send: Send) -> None:
        self._report(await self._sender.exchange(send))

    async def _tick(self) -> None:
        while True:
            due_ns = time.monotonic_ns() + round(_TICK_S * 1e9)
            await asyncio.sleep(_TICK_S)
            self._loop_lags_ns.append(max(0, time.monotonic_ns() - due_ns))

    def _vitals(self) -> Vitals:
        lags_ns, self._loop_lags_ns = self._loop_lags_ns, []
        return Vitals(cpu_ns=time.process_time_ns(), loop_lags_ns=lags_ns)

    def _report(self, report: Report) -> None:
        self._output.write(frame(report))


async def _main(host: str, port: int, *, tls: bool) -> None:
    loop = asyncio.get_running_loop()
    orders = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    output, _ = await loop.connect_write_pipe(
        asyncio.Protocol, os.fdopen(os.dup(sys.stdout.fileno()), "wb", buffering=0)
    )
    # A pause of the collector would be a late stamp: what start-up made is never looked at again.
    gc.freeze()
    await Reporter(Sender(host, port, tls=tls), output).obey(orders)


if __name__ == "__main__":
    host, port, scheme = sys.argv[1:]
    uvloop.run(_main(host, int(port), tls=scheme == "https"))
