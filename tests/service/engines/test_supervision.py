"""Waits before restarts, sockets and last words."""

import stat

from service.engines.supervision import SOCKET_PATH_BYTES, Backoff, last_line, socket_path


def test_waits_double_up_to_a_minute():
    """A process that dies at once is started again ever later."""
    backoff = Backoff()

    assert [backoff.died(after_s=0.5) for _ in range(8)] == [1, 2, 4, 8, 16, 32, 60, 60]


def test_a_steady_life_starts_the_waits_over():
    """A death after a minute of work is the first of a new row."""
    backoff = Backoff()
    for _ in range(4):
        backoff.died(after_s=0.5)

    assert (backoff.died(after_s=61.0), backoff.died(after_s=0.5)) == (1, 2)


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


def test_last_words_are_the_newest_line_that_says_something(tmp_path):
    """Blank lines, and what an earlier life wrote, do not count."""
    log = tmp_path / "log"
    log.write_text("earlier\nfirst\nlast  \n\n")

    assert last_line(log, len("earlier\n")) == "last"
    assert last_line(log, log.stat().st_size) is None
