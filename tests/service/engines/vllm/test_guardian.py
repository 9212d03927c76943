"""Processes that must not outlive who asked for them."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress

import psutil
import pytest

from service.engines.vllm import guardian

#: A command that leaves a process of its own behind, and tells its id.
FAMILY = (
    "import subprocess as s, sys; p = s.Popen(['sleep', '60']); print(p.pid, flush=True); {then}"
)


@pytest.fixture
def guarded():
    """Starts commands under a guardian: it, the command's process id and the grandchild's."""
    started = []

    def start(then):
        script = FAMILY.format(then=then)
        process = subprocess.Popen(
            [sys.executable, "-I", guardian.__file__, sys.executable, "-c", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        started.append(process)
        return process, int(process.stdout.readline()), int(process.stderr.readline())

    yield start
    for process in started:
        process.stdin.close()
        process.wait()
        process.stdout.close()
        process.stderr.close()


def gone(pid, limit_s=10.0):
    """Whether a process ends within the limit; one that nobody reaps has ended, too."""
    deadline = time.monotonic() + limit_s
    with suppress(psutil.NoSuchProcess):
        while psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.01)
    return True


def test_a_status_is_told_and_what_is_left_is_ended(guarded):
    """The grandchild ends with the command."""
    process, _, grandchild = guarded("sys.exit(7)")

    assert int(process.stdout.readline()) == 7
    assert gone(grandchild)


def test_a_signal_is_told_as_shells_do(guarded):
    """128 and its number."""
    process, command, grandchild = guarded("p.wait()")
    os.kill(command, signal.SIGKILL)

    assert int(process.stdout.readline()) == 128 + signal.SIGKILL
    assert gone(grandchild)


def test_all_ends_when_who_asked_is_gone(guarded):
    """A closed pipe is all that a killed service leaves."""
    process, command, grandchild = guarded("p.wait()")
    process.stdin.close()

    assert gone(command)
    assert gone(grandchild)
    assert process.wait(10) == 0


def test_signals_for_the_guardian_end_nothing(guarded):
    """Whoever asked decides; the command is not told either."""
    process, command, _ = guarded("p.wait()")
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGINT)

    assert psutil.Process(command).is_running()
    assert process.poll() is None
