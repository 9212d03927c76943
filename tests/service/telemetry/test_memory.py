"""Process memory is what the kernel says, not asked too often, and None when unknown."""

import os
import subprocess
import sys

from service.telemetry.memory import ProcessProbe


def test_this_process_has_memory() -> None:
    """RSS, PSS and peak of a living process are known and ordered."""
    memory = ProcessProbe().read()

    assert memory.rss_bytes
    assert memory.pss_bytes
    assert memory.peak_rss_bytes
    assert memory.pss_bytes <= memory.rss_bytes <= memory.peak_rss_bytes + 2**20


def test_allocated_memory_shows() -> None:
    """Touching 64 MiB raises RSS by about as much."""
    before = ProcessProbe().read().rss_bytes
    block = bytearray(os.urandom(1) * (64 * 2**20))
    after = ProcessProbe().read().rss_bytes

    assert before is not None
    assert after is not None
    assert len(block) * 0.9 < after - before < len(block) * 1.5


def test_readings_are_rate_limited() -> None:
    """Within half a second the same reading comes back; after it, a new one."""
    now_ns = 0
    probe = ProcessProbe(clock_ns=lambda: now_ns)
    first = probe.read()

    now_ns = 499_999_999
    assert probe.read() is first
    now_ns = 500_000_000
    assert probe.read() is not first


def test_a_process_that_ended_is_unknown() -> None:
    """All fields of a process that is gone are None, never 0."""
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    child.wait()
    memory = ProcessProbe(child.pid).read()

    assert (memory.rss_bytes, memory.pss_bytes, memory.peak_rss_bytes) == (None, None, None)
