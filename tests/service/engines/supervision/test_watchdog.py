"""Signs of life, time and work, and whether they make a stalled engine."""

import pytest

from service.engines.supervision.watchdog import PATIENCE, Watchdog, Workload

RUNNING = Workload(requests=1)


def looks(watch, work, seconds, *, after=lambda: None):
    """What each look says while time passes in looks of equal length."""
    said = []
    now_s = watch._looked_s or 0.0
    for _ in range(round(seconds / watch.look_s)):
        now_s += watch.look_s
        said.append(watch.look(now_s, work))
        after()
    return said


@pytest.fixture
def watch():
    """A watch that has looked once, for stalls of 8 s."""
    watch = Watchdog(8)
    watch.look(0.0, Workload())
    return watch


def test_silence_while_a_request_runs_is_a_stall(watch):
    """Not before its time."""
    said = looks(watch, RUNNING, 8)

    assert set(said[:-1]) == {None}
    assert said[-1] == "sent no heartbeat for 8 s"


def test_signs_of_life_without_steps_are_a_stall(watch):
    """The process talks, and its engine hangs."""
    assert looks(watch, RUNNING, 8, after=watch.heard)[-1] == "made no step for 8 s"


def test_an_engine_that_steps_is_never_stalled(watch):
    """However long its requests run."""
    assert set(looks(watch, RUNNING, 80, after=watch.stepped)) == {None}


def test_nothing_to_do_is_no_stall(watch):
    """And the time of rest is not held against the next request."""
    assert set(looks(watch, Workload(), 80)) == {None}
    assert set(looks(watch, RUNNING, 7)) == {None}


def test_a_load_or_a_first_answer_gets_more_time(watch):
    """Compilation takes its time; a process that never comes back is found in the end."""
    said = looks(watch, Workload(requests=1, slow_steps=True), 8 * PATIENCE)

    assert set(said[:-1]) == {None}
    assert said[-1] == "sent no heartbeat for 80 s"


def test_a_load_needs_no_steps(watch):
    """A process that only loads is alive as long as it says anything."""
    work = Workload(calls=1, slow_steps=True)

    assert set(looks(watch, work, 8 * PATIENCE + 8, after=watch.heard)) == {None}
    assert looks(watch, work, 8 * PATIENCE)[-1] is not None


def test_a_watcher_that_was_stopped_itself_blames_nobody(watch):
    """An hour between two looks counts as two looks."""
    assert watch.look(3600.0, RUNNING) is None
    assert watch.silent_s == 2 * watch.look_s


async def test_a_stall_is_told_once_with_what_waited():
    """The watch ends with it."""
    told = []
    await Watchdog(0.01).watch(lambda: Workload(requests=2), told.append)

    assert told == ["sent no heartbeat for 0.01 s while 2 requests waited or ran"]
