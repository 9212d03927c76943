"""Frames on a socket, however the bytes arrive."""

import asyncio
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import msgpack

from service.core.events import Delta
from service.engines.torch.protocol import messages
from service.engines.torch.protocol.frames import FrameProtocol, host_frames
from service.engines.torch.protocol.messages import (
    CallFailed,
    Cancel,
    Events,
    FrameTooLarge,
    FromHost,
    RequestFailed,
    Text,
    ToHost,
    Unloaded,
    UnloadModel,
    frame,
)

MESSAGES = [Cancel("a"), UnloadModel("b" * 300), Cancel("")]


class Pipe(asyncio.Transport):
    """A transport that keeps what is written to it."""

    def __init__(self):
        super().__init__()
        self.written = b""
        self.closed = False

    def write(self, data):
        self.written += data

    def close(self):
        self.closed = True

    def is_closing(self):
        return self.closed


def opened():
    received, lost = [], []
    protocol = FrameProtocol(
        msgpack.Decoder(ToHost), on_message=received.append, on_lost=lambda: lost.append(True)
    )
    pipe = Pipe()
    protocol.connection_made(pipe)
    return protocol, pipe, received, lost


@given(st.lists(st.integers(0, 340), max_size=20))
def test_messages_arrive_whole_and_in_order(cuts):
    """Frames cut at any byte are the messages that were sent."""
    protocol, _, received, _ = opened()
    data = b"".join(map(frame, MESSAGES))
    edges = [0, *sorted(cuts), len(data)]
    for start, end in itertools.pairwise(edges):
        protocol.data_received(data[start:end])

    assert received == MESSAGES


def test_what_is_sent_can_be_received():
    """One end's frames are the other's messages."""
    sender, pipe, _, _ = opened()
    for message in MESSAGES:
        sender.send(message)
    receiver, _, received, _ = opened()
    receiver.data_received(pipe.written)

    assert received == MESSAGES


@pytest.mark.parametrize("data", [b"\xff\xff\xff\xff", b"\x00\x00\x00\x01\xc1"])
def test_nonsense_ends_the_connection(data):
    """A frame that is too long or no message closes the stream."""
    protocol, pipe, received, _ = opened()
    with pytest.raises(ValueError):
        protocol.data_received(data)

    assert pipe.closed
    assert received == []


def test_a_lost_peer_is_reported_and_sending_to_it_does_nothing():
    """The owner learns of the loss; later messages go nowhere."""
    protocol, pipe, _, lost = opened()
    protocol.connection_lost(None)
    protocol.send(MESSAGES[0])

    assert (lost, pipe.written, protocol.connected) == ([True], b"", False)


@pytest.fixture
def small_frames(monkeypatch):
    """Frames of at most 300 bytes."""
    monkeypatch.setattr(messages, "MAX_FRAME_BYTES", 300)


def received_of(message):
    """What the service receives when the host sends a message."""
    received = []
    protocol = FrameProtocol(
        msgpack.Decoder(FromHost), on_message=received.append, on_lost=lambda: None
    )
    protocol.connection_made(Pipe())
    protocol.data_received(b"".join(host_frames(message)))
    return received


def delta(text):
    return Delta(text=text, token_ids=(1,), at_ns=1)


@pytest.mark.usefixtures("small_frames")
def test_a_request_whose_events_are_too_large_fails_alone():
    """The service closed the socket on such a frame, and every model of the host went with it."""
    sent = Events((("a", delta("x")), ("b", delta("y" * 300)), ("c", delta("z"))))
    of_a, of_b, of_c = received_of(sent)

    assert of_a == Events((("a", delta("x")),))
    assert isinstance(of_b, RequestFailed)
    assert (of_b.request_id, of_b.code) == ("b", "invalid_request")
    assert "too large to be sent" in of_b.message
    assert of_c == Events((("c", delta("z")),))


@pytest.mark.usefixtures("small_frames")
def test_events_that_fit_one_by_one_all_arrive():
    """Together they exceed a frame."""
    items = tuple((name, delta("x" * 100)) for name in "abcde")
    arrived = [item for each in received_of(Events(items)) for item in each.items]

    assert tuple(arrived) == items


@pytest.mark.usefixtures("small_frames")
def test_a_call_whose_reply_is_too_large_fails_alone():
    """Its caller is told."""
    (reply,) = received_of(Text(7, "x" * 400))

    assert isinstance(reply, CallFailed)
    assert (reply.call_id, reply.code) == (7, "invalid_request")


@pytest.mark.usefixtures("small_frames")
def test_what_is_too_large_is_not_sent():
    """The sender learns of it, and the connection is kept."""
    protocol, pipe, _, _ = opened()
    with pytest.raises(FrameTooLarge, match="exceeds the limit of 300"):
        protocol.send(UnloadModel("b" * 400))
    with pytest.raises(FrameTooLarge):
        list(host_frames(Unloaded("b" * 400)))

    assert (pipe.written, pipe.closed) == (b"", False)
