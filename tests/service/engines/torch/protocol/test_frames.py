"""Frames on a socket, however the bytes arrive."""

import asyncio
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import msgpack

from service.engines.torch.protocol.frames import FrameProtocol
from service.engines.torch.protocol.messages import Cancel, ToHost, UnloadModel, frame

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
