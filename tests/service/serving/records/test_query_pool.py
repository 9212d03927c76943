"""Queries have threads of their own, a bound, and end with who waits for them."""

import asyncio
import threading

import pytest

from service.core.errors import Overloaded, QueryCancelled
from service.serving.records.query_pool import QueryPool
from support.waiting import until


@pytest.fixture
def pool():
    opened = QueryPool("summaries", threads=1, max_waiting=2)
    yield opened
    opened.close()


def endless(cancelled):
    while not cancelled():
        threading.Event().wait(0.001)
    raise QueryCancelled("nobody waits")


async def test_a_result_comes_back(pool):
    """The result of a query, and its error, reach who asked for it."""
    assert await pool.run(lambda _: 7) == 7
    with pytest.raises(ZeroDivisionError):
        await pool.run(lambda _: 1 / 0)


async def test_queries_beyond_the_bound_are_refused(pool):
    """Who comes too late is told to try again, and nothing piles up."""
    tasks = [asyncio.create_task(pool.run(endless)) for _ in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded) as caught:
        await pool.run(endless)
    assert caught.value.retry_after_s
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_query_ends_with_its_caller(pool):
    """Abandoned queries free the thread: a hundred of them once made others wait for minutes."""
    for _ in range(100):
        task = asyncio.create_task(pool.run(endless))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await until(lambda: pool.admitted == 0)
    assert await pool.run(lambda _: 7) == 7


async def test_closing_cancels_what_runs():
    """A shutdown does not wait for a long summary."""
    pool = QueryPool("summaries", threads=1, max_waiting=2)
    task = asyncio.create_task(pool.run(endless))
    await asyncio.sleep(0.01)
    await asyncio.to_thread(pool.close)
    with pytest.raises(QueryCancelled):
        await task
