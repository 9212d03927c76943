"""Output of child processes in logs of bounded size."""

import os
import subprocess
import sys

import pytest

from service.engines.supervision.child_log import ChildLog
from support.waiting import wait_until


@pytest.fixture
def path(tmp_path):
    return tmp_path / "logs" / "child.log"


def run(log, script):
    """Run a child to its end with its output in the log."""
    output = log.open()
    try:
        subprocess.run([sys.executable, "-c", script], stderr=output, check=False)
    finally:
        os.close(output)
    log.drain()


def test_a_log_is_bounded_while_its_child_writes(path):
    """It grew for as long as the child lived."""
    log = ChildLog(path, max_bytes=10_000, generations=2)
    run(log, "import sys\nfor number in range(20_000): sys.stderr.write(f'line {number}\\n')")
    files = sorted(each.name for each in path.parent.iterdir())

    assert files == ["child.log", "child.log.1", "child.log.2"]
    assert all(each.stat().st_size <= 10_000 for each in path.parent.iterdir())
    assert path.read_text().endswith("line 19999\n")


def test_each_life_has_a_file_of_its_own(path):
    """The latest are kept."""
    log = ChildLog(path, generations=2)
    for number in range(4):
        run(log, f"import sys; sys.exit('life {number}')")

    assert path.read_text() == "life 3\n"
    assert path.with_name("child.log.2").read_text() == "life 1\n"
    assert not path.with_name("child.log.3").exists()


def test_what_a_crash_writes_is_kept(path):
    """It comes from C, not from a logger."""
    log = ChildLog(path)
    run(log, "import faulthandler, os; faulthandler.enable(); os.abort()")

    assert log.tail()[0] == "Fatal Python error: Aborted"
    assert "Fatal Python error" in path.read_text()


def test_output_is_followed_as_text(path):
    """Characters that arrive in two pieces are one."""
    seen = []
    log = ChildLog(path, on_text=seen.append)
    output = log.open()
    os.write(output, "ä".encode()[:1])
    wait_until(lambda: seen)
    os.write(output, "ä\n \n".encode()[1:])
    os.close(output)
    log.drain()

    assert "".join(seen) == "ä\n \n"
    assert log.tail() == ["ä"]


def test_a_follower_that_fails_does_not_stop_the_child(path, caplog):
    """The log is read on."""
    log = ChildLog(path, on_text=lambda _: 1 / 0)
    run(log, "import sys; sys.stderr.write('x' * 200_000); sys.exit(' end')")

    assert log.tail()[-1].endswith(" end")
    assert "stopped parsing" in caplog.text


def test_a_full_disk_does_not_stop_the_child(path, caplog):
    """Its output is read on, and the tail is kept."""
    path.parent.mkdir()
    path.symlink_to("/dev/full")
    log = ChildLog(path, generations=0)
    run(log, "import sys; sys.stderr.write('x' * 200_000); sys.exit(' end')")

    assert log.tail()[-1].endswith(" end")
    assert "child.log: No space left" in caplog.text
