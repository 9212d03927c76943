"""The measuring process stamps at the socket, sends on time, and hides nothing that breaks."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from loadtest.address import Address
from loadtest.errors import LoadTestError
from loadtest.wire.messages import Exchange, Send
from loadtest.wire.process import WireProcess

HEAD = b"HTTP/1.1 200 OK\r\nx-request-id: s1\r\ntransfer-encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"
Answering = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def chunk(body: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(body), body)


@contextlib.asynccontextmanager
async def served(answer: Answering) -> AsyncIterator[Address]:
    """A server that answers each request of each connection by *answer*."""
    ends: list[asyncio.Task[None]] = []

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends.append(asyncio.current_task())
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while await reader.readuntil(b"\r\n\r\n{}"):
                await answer(reader, writer)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    async with server:
        yield Address.parse(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        await asyncio.gather(*ends)


def send(address: Address, key: int = 1, *, after_ms: float = 0, timeout_s: float = 20) -> Send:
    return Send(
        key=key,
        planned_ns=time.monotonic_ns() + round(after_ms * 1e6),
        request=address.post("/v1/chat/completions", b"{}", request_id="c"),
        timeout_s=timeout_s,
    )


async def exchange(answer: Answering, **options: float) -> Exchange:
    async with served(answer) as address, WireProcess(address) as wire:
        return await wire.exchange(send(address, **options))


async def test_each_received_piece_has_its_own_stamp() -> None:
    """Pieces written 50 ms apart are stamped 50 ms apart; the head has a stamp of its own."""

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for piece in (HEAD, chunk(b"one"), chunk(b"two"), END):
            writer.write(piece)
            await asyncio.sleep(0.05)

    seen = await exchange(answer)

    (first_ns, one), (second_ns, two) = seen.pieces
    assert (one, two, seen.status, seen.request_id) == (b"one", b"two", 200, "s1")
    assert seen.head_ns + 40_000_000 < first_ns < second_ns - 40_000_000
    assert seen.problem is None


async def test_pieces_that_were_written_together_share_a_stamp() -> None:
    """What one `recv` brought has one stamp: no time is made up between coalesced events."""

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + chunk(b"one") + chunk(b"two") + END)

    seen = await exchange(answer)

    assert [body for _, body in seen.pieces] == [b"one", b"two"]
    assert len({at_ns for at_ns, _ in seen.pieces} | {seen.head_ns}) == 1


async def test_a_request_is_never_sent_before_its_time() -> None:
    """Timers that round to milliseconds do not make a request early."""

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + END)

    async with served(answer) as address, WireProcess(address) as wire:
        orders = [send(address, key, after_ms=20 + 0.3 * key) for key in range(20)]
        seen = await asyncio.gather(*map(wire.exchange, orders))

    assert all(
        order.planned_ns <= one.dispatched_ns <= one.sent_ns
        for order, one in zip(orders, seen, strict=True)
    )


async def test_a_connection_is_used_again() -> None:
    """Requests one after the other take one connection."""
    connections = set()

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.add(writer.get_extra_info("peername"))
        writer.write(HEAD + END)

    async with served(answer) as address, WireProcess(address) as wire:
        for key in range(3):
            assert (await wire.exchange(send(address, key))).problem is None

    assert len(connections) == 1


async def test_a_broken_answer_is_a_problem() -> None:
    """A connection that ends inside an answer leaves the bytes that came and the reason."""

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + chunk(b"one"))
        writer.close()

    seen = await exchange(answer)

    assert [body for _, body in seen.pieces] == [b"one"]
    assert seen.problem == "connection closed by the service"


async def test_an_answer_without_a_length_ends_with_its_connection() -> None:
    """HTTP without framing is whole when the service closes."""

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.0 503 Service Unavailable\r\n\r\nno")
        writer.close()

    seen = await exchange(answer)

    assert (seen.status, seen.pieces[0][1], seen.problem) == (503, b"no", None)


async def test_what_is_not_http_is_a_problem() -> None:
    """Bytes that are no HTTP are named, and do not end the measuring process."""

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH\r\n\r\n")

    assert (await exchange(answer)).problem == "malformed HTTP answer"


async def test_a_time_limit_hangs_up() -> None:
    """A request that is given up closes its connection, so that the service can cancel it."""
    hung_up = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD)
        with contextlib.suppress(ConnectionError):
            await reader.read()
        hung_up.set()

    async with served(answer) as address, WireProcess(address) as wire:
        seen = await wire.exchange(send(address, timeout_s=0.1))
        assert seen.problem == "timeout"
        async with asyncio.timeout(20):
            await hung_up.wait()


async def test_the_process_reports_its_own_lag_and_cpu() -> None:
    """Loop lags since the last report and CPU time are what a run is judged by."""
    async with WireProcess(Address.parse("http://127.0.0.1:9")) as wire:
        await asyncio.sleep(0.2)
        vitals = await wire.vitals()

    assert vitals.cpu_ns > 0
    assert vitals.loop_lags_ns
    assert min(vitals.loop_lags_ns) >= 0


async def test_the_death_of_the_process_is_an_error() -> None:
    """A measuring process that dies ends the run with an error; nothing waits for ever."""

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD)
        os.kill(wire._process.pid, signal.SIGKILL)

    async with served(answer) as address, WireProcess(address) as wire:
        with pytest.raises(LoadTestError, match="measuring process ended"):
            await wire.exchange(send(address))
        with pytest.raises(LoadTestError, match="measuring process ended"):
            await wire.vitals()


@pytest.mark.parametrize(
    ("url", "named"),
    [("127.0.0.1:8000", "scheme"), ("ftp://h", "scheme"), ("http://h:x", "not a URL")],
)
def test_a_wrong_address_is_refused(url: str, named: str) -> None:
    """An address that cannot be sent to is an error that says why."""
    with pytest.raises(LoadTestError, match=named):
        Address.parse(url)


def test_an_address_may_have_a_path_and_a_bracketed_host() -> None:
    """A path before `/v1` is kept, and an IPv6 host has brackets in the request alone."""
    address = Address.parse("https://[::1]/far/")

    assert (address.host, address.port, address.tls) == ("::1", 443, True)
    request = address.post("/v1/x", b"{}", request_id="c")
    assert request.startswith(b"POST /far/v1/x HTTP/1.1\r\nhost: [::1]:443\r\n")
