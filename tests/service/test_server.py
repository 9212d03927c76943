"""The socket that is listened on."""

import socket
from contextlib import closing

import pytest

from service.core.errors import ConfigError
from service.server import address, listen


def test_accepted_connections_send_small_writes_at_once():
    """They did not: with the reader's delayed acknowledgements every answer took 40 ms more."""
    with closing(listen("127.0.0.1", 0)) as bound:
        with socket.create_connection(bound.getsockname()):
            accepted, _ = bound.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_port_that_is_taken_is_a_configuration_error():
    """With the option that helps."""
    with closing(listen("127.0.0.1", 0)) as bound:
        port = bound.getsockname()[1]
        with pytest.raises(ConfigError, match=f"127.0.0.1:{port}.*--port"):
            listen("127.0.0.1", port)


def test_the_address_is_one_that_a_client_can_use():
    """Not the wildcard that is listened on."""
    with closing(listen("0.0.0.0", 0)) as bound:
        assert address(bound) == f"http://127.0.0.1:{bound.getsockname()[1]}"
