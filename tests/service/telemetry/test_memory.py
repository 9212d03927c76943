"""Memory of processes is not read too often, and only of those that live."""

import os

from service.telemetry.memory import MemoryProbes
from support.clock import Clock


def test_readings_are_rate_limited():
    """Within half a second the same reading comes back; after it, a new one."""
    clock = Clock()
    probes = MemoryProbes(lambda: {"me": os.getpid()}, clock_ns=clock)
    first = probes.read()["me"]

    clock.now = 499_999_999
    assert probes.read()["me"] is first
    clock.now = 500_000_000
    assert probes.read()["me"] is not first


def test_processes_are_those_of_the_moment():
    """Names come and go; one process under two names is read once."""
    named = {"a": os.getpid(), "b": os.getpid()}
    probes = MemoryProbes(lambda: named)
    both = probes.read()
    assert both["a"] is both["b"]
    del named["a"]

    assert probes.read().keys() == {"b"}
