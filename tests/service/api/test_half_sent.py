"""Connections that send nothing, or only half a request, are closed."""

import json
import socket
import time
from contextlib import suppress

import pytest

from service.settings import HttpSettings

LIMIT_S = 0.3
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"


@pytest.fixture
def impatient(serve):
    return serve(http=HttpSettings(idle_s=LIMIT_S, head_s=LIMIT_S, body_s=LIMIT_S))


def connected(live):
    host, port = live.base_url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=10)


def rest_of(connection):
    """Everything until the server closes, and how long that took."""
    began_s, received = time.monotonic(), b""
    while piece := connection.recv(65536):
        received += piece
    return received, time.monotonic() - began_s


@pytest.mark.parametrize("sent", [b"", b"GET /livez HT", HEAD])
def test_a_head_that_does_not_come_closes_the_connection(impatient, sent):
    """It stayed open for ever."""
    with connected(impatient) as connection:
        connection.sendall(sent)
        received, seconds = rest_of(connection)
    assert received == b""
    assert LIMIT_S * 0.8 < seconds < 5


def test_a_head_that_drips_in_has_no_more_time(impatient):
    """The limit is for the whole head, not for each byte."""
    with connected(impatient) as connection:
        began_s = time.monotonic()
        connection.sendall(b"GET /")
        connection.settimeout(0.05)
        while time.monotonic() - began_s < 5:
            connection.sendall(b"x")
            with suppress(TimeoutError):
                assert connection.recv(1) == b""
                break
        assert time.monotonic() - began_s < 3


def test_a_body_that_does_not_come_is_408(impatient):
    """In OpenAI's shape, and the connection is closed."""
    with connected(impatient) as connection:
        connection.sendall(HEAD + b'content-length: 100\r\n\r\n{"model"')
        received, seconds = rest_of(connection)
    head, _, body = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408 ")
    assert b"connection: close" in head.lower()
    assert json.loads(body)["error"]["code"] == "request_timeout"
    assert LIMIT_S * 0.8 < seconds < 5
    assert impatient.requests == 0


def test_a_connection_between_requests_is_closed_when_it_rests(impatient):
    """After its idle time."""
    with connected(impatient) as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n")
        received, seconds = rest_of(connection)
    assert received.startswith(b"HTTP/1.1 200 ")
    assert LIMIT_S * 0.8 < seconds < 5


def test_a_second_head_that_does_not_come_closes_the_connection(impatient):
    """The pause before it is over with its first byte."""
    with connected(impatient) as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\nGET /li")
        received, seconds = rest_of(connection)
    assert received.count(b"HTTP/1.1 200 ") == 1
    assert seconds < 5


def test_a_long_answer_is_not_cut(impatient):
    """The limits are for what the client sends."""
    answer = impatient.chat("w " * 60, model="slow")
    assert answer.status_code == 200
    assert answer.elapsed.total_seconds() > 2 * LIMIT_S


def test_a_connection_is_used_again_and_again(impatient):
    """Each request anew."""
    for _ in range(4):
        assert impatient.get("/livez").status_code == 200
        time.sleep(LIMIT_S / 2)
