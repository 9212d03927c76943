"""Outbox: frames leave at once from any thread, in order and whole."""

import asyncio
import socket
import threading
from collections.abc import AsyncIterator

import pytest

from service.torch_host.outbox import Outbox

FRAME_BYTES = 50_000


@pytest.fixture
async def pair() -> AsyncIterator[tuple[Outbox, socket.socket]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    outbox = Outbox(ours, asyncio.get_running_loop())
    with ours, theirs:
        yield outbox, theirs
        outbox.close()


def _read(peer: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size and (part := peer.recv(2**16)):
        data += part
    return bytes(data)


async def test_a_frame_leaves_before_the_event_loop_has_its_turn(
    pair: tuple[Outbox, socket.socket],
) -> None:
    """Regression: tokens waited for the event loop's thread, up to 5 ms beside a busy team."""
    outbox, peer = pair
    sender = threading.Thread(target=outbox.send, args=([b"token"],))
    sender.start()
    sender.join()  # blocks the event loop: only the sending thread can have written
    peer.setblocking(False)
    assert peer.recv(100) == b"token"


async def test_what_the_socket_does_not_take_is_sent_later_and_in_order(
    pair: tuple[Outbox, socket.socket],
) -> None:
    """Frames of several threads beyond the socket's buffer arrive whole, each thread's in order."""
    outbox, peer = pair
    counts, letters = 40, b"abcd"

    def run(letter: int) -> None:
        for number in range(counts):
            outbox.send([bytes([letter, number]) + bytes(FRAME_BYTES)])

    senders = [threading.Thread(target=run, args=(letter,)) for letter in letters]
    for sender in senders:
        sender.start()
    size = FRAME_BYTES + 2
    data = await asyncio.to_thread(_read, peer, size * counts * len(letters))
    for sender in senders:
        sender.join()
    frames = [data[start : start + size] for start in range(0, len(data), size)]
    assert all(frame[2:] == bytes(FRAME_BYTES) for frame in frames)
    for letter in letters:
        assert [frame[1] for frame in frames if frame[0] == letter] == list(range(counts))


async def test_frames_to_a_peer_that_is_gone_are_dropped(
    pair: tuple[Outbox, socket.socket],
) -> None:
    """Sending to a closed connection neither raises nor keeps what nobody will read."""
    outbox, peer = pair
    peer.close()
    for _ in range(3):
        outbox.send([bytes(FRAME_BYTES)])
    assert not outbox.backlog_bytes


async def test_a_closed_outbox_drops_its_backlog(pair: tuple[Outbox, socket.socket]) -> None:
    """After close nothing is kept, and the event loop no longer watches the socket."""
    outbox, _ = pair
    for _ in range(100):
        outbox.send([bytes(FRAME_BYTES)])
    assert outbox.backlog_bytes
    outbox.close()
    await asyncio.sleep(0)
    assert not outbox.backlog_bytes
