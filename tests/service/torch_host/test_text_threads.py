"""The order in which texts are worked on, and what a long text keeps waiting."""

import asyncio
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.torch_host.text_threads import (
    DUE_CHARACTERS_PER_S,
    LARGE_CHARACTERS,
    TextJob,
    TextQueue,
    TextThreads,
)
from support.waiting import until

LARGE = LARGE_CHARACTERS + 1


def job(number, characters=10, *, model="m", at_s=0.0):
    due_s = at_s + characters / DUE_CHARACTERS_PER_S
    return TextJob(due_s, number, model, characters, int, None)


def queue_of(*jobs):
    queue = TextQueue()
    for each in jobs:
        queue.put(each)
    return queue


def order(queue, *, large=True):
    taken = []
    while (each := queue.next(large=large)) is not None:
        taken.append(each.number)
    return taken


def test_short_texts_overtake_long_ones():
    """Of texts that come at once the shortest is first."""
    assert order(queue_of(job(0, LARGE * 30), job(1, 5000), job(2, 10))) == [2, 1, 0]


def test_a_long_text_is_not_starved():
    """Short texts that come after it was due wait for it."""
    late = [job(number, at_s=2.0) for number in (1, 2)]

    assert order(queue_of(job(0, 1_000_000), *late)) == [0, 1, 2]


def test_a_large_text_waits_where_only_small_ones_may_run():
    """It keeps its place while another large one is worked on."""
    queue = queue_of(job(0, LARGE), job(1, 10))

    assert order(queue, large=False) == [1]
    assert order(queue) == [0]


def test_models_take_turns_by_characters():
    """A model with many texts does not keep another's one waiting."""
    queue = queue_of(*(job(number, 1000, model="busy") for number in range(20)))
    for _ in range(3):
        queue.next(large=True)
    queue.put(job(99, 1000, model="quiet", at_s=5.0))

    assert 99 in [queue.next(large=True).number for _ in range(2)]


def test_idle_time_earns_no_credit():
    """A model that wakes takes turns with the others, whatever they used before."""
    queue = queue_of(*(job(number, 1000, model="busy") for number in range(20)))
    for _ in range(10):
        queue.next(large=True)
    for number in range(100, 110):
        queue.put(job(number, 1000, model="woken"))
    taken = [queue.next(large=True).model_id for _ in range(8)]

    assert 3 <= taken.count("woken") <= 5


def test_a_discarded_job_is_not_taken():
    """Whoever hung up while waiting costs nothing; a job that was taken is ignored."""
    jobs = [job(number) for number in range(4)]
    queue = queue_of(*jobs)
    assert queue.next(large=True) is jobs[0]
    for each in (jobs[0], jobs[2]):
        queue.discard(each)

    assert order(queue) == [1, 3]


@settings(max_examples=100)
@given(
    st.lists(
        st.tuples(st.sampled_from("ab"), st.integers(0, 100_000), st.booleans(), st.integers(0, 3)),
        max_size=40,
    )
)
def test_every_job_is_taken_once(arrivals):
    """Whatever comes and is taken in between."""
    queue, taken = TextQueue(), []
    for number, (model, characters, large, turns) in enumerate(arrivals):
        queue.put(job(number, characters, model=model, at_s=number / 10))
        for _ in range(turns):
            each = queue.next(large=large)
            taken += [] if each is None else [each.number]
    taken += order(queue)

    assert sorted(taken) == list(range(len(arrivals)))


@pytest.fixture
async def threads():
    threads = TextThreads()
    yield threads
    threads.close()


async def test_large_texts_leave_a_thread_to_small_ones(threads):
    """Eight large texts do not delay a small one, though it comes last.

    Regression: texts were worked on first come first served, and two large ones held both threads.
    """
    release, begun = threading.Event(), []

    def large(number):
        begun.append(number)
        release.wait(20)

    tasks = [
        asyncio.create_task(
            threads.run(lambda number=number: large(number), model_id="m", characters=LARGE)
        )
        for number in range(8)
    ]
    await until(lambda: begun)

    assert await threads.run(lambda: "small", model_id="m", characters=10) == "small"
    assert len(begun) == 1
    release.set()
    await asyncio.gather(*tasks)
    assert sorted(begun) == list(range(8))


async def test_an_error_reaches_whoever_asked(threads):
    """The thread goes on with the next job."""
    with pytest.raises(ZeroDivisionError):
        await threads.run(lambda: 1 // 0, model_id="m", characters=LARGE)

    assert await threads.run(lambda: 3, model_id="m", characters=LARGE) == 3


async def test_a_job_that_is_cancelled_while_it_waits_is_never_begun(threads):
    """Its place is given to the next one."""
    release, begun = threading.Event(), []
    running = asyncio.create_task(
        threads.run(lambda: release.wait(20), model_id="m", characters=LARGE)
    )
    waiting = asyncio.create_task(
        threads.run(lambda: begun.append(1), model_id="m", characters=LARGE)
    )
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    release.set()
    await running

    assert await threads.run(lambda: 3, model_id="m", characters=LARGE) == 3
    assert not begun
