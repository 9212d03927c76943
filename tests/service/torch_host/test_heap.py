"""When the heap is trimmed, and that it helps."""

import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from service.engines.torch.process import environment
from service.torch_host.heap import EVERY_S, REST_S, Heap
from support.clock import Clock


@pytest.fixture
def clock():
    return Clock(100.0)


@pytest.fixture
def trims():
    return []


@pytest.fixture
def heap(clock, trims):
    return Heap(lambda: trims.append(clock.now), clock_s=clock)


def test_there_is_nothing_to_give_back_at_first(heap, trims):
    """Without a model that rests no trim is due."""
    heap.tidy()

    assert heap.due_in_s is None
    assert trims == []


def test_a_model_that_rested_is_trimmed_after_once(heap, clock, trims):
    """Not at once, not twice."""
    heap.rests("a")
    heap.tidy()
    assert (heap.due_in_s, trims) == (REST_S, [])

    clock.now += REST_S
    heap.tidy()
    heap.tidy()
    assert (heap.due_in_s, trims) == (None, [clock.now])


def test_a_model_that_works_again_keeps_its_memory(heap, clock, trims):
    """Between the requests of one client nothing is trimmed."""
    for _ in range(10):
        heap.rests("a")
        clock.now += REST_S / 2
        heap.works("a")
        clock.now += REST_S
        heap.tidy()

    assert (heap.due_in_s, trims) == (None, [])


def test_trims_are_some_seconds_apart(heap, clock, trims):
    """However often models come to rest."""
    for number in range(200):
        heap.rests(str(number))
        clock.now += 0.1
        heap.tidy()
    gaps = [late - early for early, late in pairwise(trims)]

    assert len(trims) >= 3
    assert min(gaps) >= EVERY_S


def test_memory_of_a_burst_is_returned(tmp_path):
    """In the host's environment the state of 24 requests stays a while and is then given back."""
    folder = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, str(folder / "burst_child.py")],
        env={
            **environment(1, tmp_path),
            "PYTHONPATH": f"{folder.parents[1]}{os.pathsep}{Path.cwd()}",
        },
        capture_output=True,
        text=True,
        check=True,
    )
    before, busiest, kept, later = map(int, done.stdout.split())

    assert busiest - before > 120
    assert kept - before > 100
    assert later - before < 50
