"""Paths of sockets."""

import stat

from service.engines.supervision.socket_path import SOCKET_PATH_BYTES, socket_path


def test_a_socket_is_this_users_alone(tmp_path):
    """Its folder is closed to others, and what an earlier process left there is gone."""
    left = tmp_path / "run" / "a.sock"
    left.parent.mkdir()
    left.touch()
    path = socket_path(tmp_path, "a.sock")

    assert path == left
    assert not path.exists()
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_long_folder_is_avoided(tmp_path):
    """UNIX bounds the length of a socket's path, so a short folder is taken instead."""
    path = socket_path(tmp_path / ("x" * 120), "a.sock")
    path.parent.rmdir()

    assert len(str(path)) <= SOCKET_PATH_BYTES
