"""Event streams: silence, errors, and clients that leave or take nothing."""

import asyncio
import logging

import pytest

from service.api.sse import (
    DONE,
    KEEP_ALIVE,
    ClientDisconnected,
    EventStream,
    cancelled_on_disconnect,
    data,
)
from service.core.errors import EngineFailed


class Client:
    """The other side of one ASGI request."""

    def __init__(self):
        self.sent = []
        self.left = asyncio.Event()
        self.takes = asyncio.Event()
        self.takes.set()

    async def receive(self):
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message):
        await self.takes.wait()
        self.sent.append(message)

    @property
    def body(self):
        return [message["body"] for message in self.sent if "body" in message]


async def answer(client, frames, **options):
    known = {"headers": dict, "keepalive_s": 10.0, "first_event_s": 5.0}
    await EventStream(frames, **(known | options))({}, client.receive, client.send)


async def test_frames_are_sent_as_they_come():
    """Head, frames, end."""

    async def frames():
        yield data({"a": 1})
        yield DONE

    client = Client()
    await answer(client, frames(), headers=lambda: {"x-served-model": "m"})
    assert client.sent[0]["status"] == 200
    assert (b"x-served-model", b"m") in client.sent[0]["headers"]
    assert client.body == [b'data: {"a":1}\n\n', DONE, b""]


async def test_an_error_before_the_first_frame_is_raised_and_nothing_is_sent():
    """It becomes a response with its own status."""

    async def frames():
        raise EngineFailed("x")
        yield

    client = Client()
    with pytest.raises(EngineFailed):
        await answer(client, frames())
    assert client.sent == []


async def test_an_error_after_the_first_frame_is_an_event():
    """And the response ends in order, without `[DONE]`."""

    async def frames():
        yield data(1)
        raise EngineFailed("died")

    client = Client()
    await answer(client, frames())
    assert b'"code":"engine_failed"' in client.body[1]
    assert client.sent[-1]["more_body"] is False


async def test_the_head_goes_out_when_the_first_event_takes_long():
    """Then comments, then the frames: nothing is lost."""

    async def frames():
        await asyncio.sleep(0.25)
        yield data(1)

    client = Client()
    await answer(client, frames(), keepalive_s=0.1, first_event_s=0.05)
    assert client.body[0] == KEEP_ALIVE
    assert client.body.count(KEEP_ALIVE) in (2, 3)
    assert client.body[-2:] == [data(1), b""]


async def test_a_stream_that_flows_has_no_comments():
    """Comments fill silence only."""

    async def frames():
        for number in range(10):
            await asyncio.sleep(0.02)
            yield data(number)

    client = Client()
    await answer(client, frames(), keepalive_s=0.15, first_event_s=0.05)
    assert KEEP_ALIVE not in client.body


async def test_leaving_closes_the_frames_at_once():
    """Also while they wait for something."""
    closed = []

    async def frames():
        try:
            yield data(1)
            await asyncio.sleep(60)
        finally:
            closed.append(True)

    client = Client()
    answering = asyncio.create_task(answer(client, frames()))
    await asyncio.sleep(0.01)
    client.left.set()
    await asyncio.wait_for(answering, 1)
    assert closed


async def test_a_reader_that_takes_nothing_is_hung_up_on():
    """It would hold its slot for ever."""
    closed = []

    async def frames():
        try:
            while True:
                yield data(1)
        finally:
            closed.append(True)

    client = Client()
    client.takes.clear()
    stalled = answer(client, frames(), keepalive_s=0.02, stalled_s=0.1)
    await asyncio.wait_for(stalled, 2)
    assert closed


async def test_a_reader_that_takes_no_comment_is_hung_up_on_too():
    """While the model still thinks."""

    async def frames():
        await asyncio.sleep(60)
        yield data(1)

    client = Client()
    client.takes.clear()
    await asyncio.wait_for(answer(client, frames(), keepalive_s=0.02, stalled_s=0.1), 2)


async def test_a_bug_in_a_stream_is_logged_and_hidden(caplog):
    """The client learns only that it was one."""

    async def frames():
        yield data(1)
        raise ZeroDivisionError("secret")

    client = Client()
    with caplog.at_level(logging.ERROR):
        await answer(client, frames())

    assert b"internal_error" in client.body[1]
    assert b"secret" not in client.body[1]
    assert "secret" in caplog.text


async def test_work_that_is_not_streamed_is_cancelled_too():
    """And what it raises says why."""
    client = Client()
    asyncio.get_running_loop().call_later(0.01, client.left.set)
    with pytest.raises(ClientDisconnected):
        async with cancelled_on_disconnect(client.receive):
            await asyncio.sleep(60)
    assert asyncio.current_task().cancelling() == 0


async def test_a_timeout_of_the_work_itself_is_not_a_disconnect():
    """The two look alike from outside."""
    client = Client()
    with pytest.raises(TimeoutError):
        async with cancelled_on_disconnect(client.receive), asyncio.timeout(0.01):
            await asyncio.sleep(60)
