"""What a killed process leaves behind of its last step."""

import os
import signal
import subprocess
import sys

import pytest

from service.engines.torch.protocol.last_step import BYTES, LastStep

WRITER = """
import sys
from service.engines.torch.protocol.last_step import LastStep
step = LastStep(int(sys.argv[1]))
step.note(("req-a", "req-b"))
step.note(("req-c",))
print("noted", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def shared():
    """A descriptor of memory that both sides map."""
    descriptor = LastStep.create()
    yield descriptor
    os.close(descriptor)


@pytest.fixture
def step(shared):
    """One side of it."""
    step = LastStep(shared)
    yield step
    step.close()


def test_a_killed_process_leaves_its_last_step(shared, step):
    """SIGKILL gives it no time to say anything."""
    command = [sys.executable, "-c", WRITER, str(shared)]
    with subprocess.Popen(
        command, pass_fds=(shared,), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout.readline() == "noted\n"
        writer.kill()

    assert writer.returncode == -signal.SIGKILL
    assert step.read() == ("req-c",)


def test_a_rest_is_noted_as_no_step(step):
    """At first nothing is noted, and after a rest nothing again."""
    assert step.read() == ()
    step.note(("a", "b"))
    assert step.read() == ("a", "b")
    step.note(())
    assert step.read() == ()


def test_more_ids_than_fit_are_cut(step):
    """What fits is kept; the rest of the batch is not suspected."""
    step.note([f"req-{number:060d}" for number in range(1024)])

    assert step.read()[0] == f"req-{0:060d}"
    assert len("\n".join(step.read())) == BYTES - 4
