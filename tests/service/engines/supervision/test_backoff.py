"""Delays before restarts."""

from service.engines.supervision.backoff import Backoff


def test_delays_double_up_to_a_minute():
    """A process that dies at once is started again ever later."""
    backoff = Backoff()

    assert [backoff.died(after_s=0.5) for _ in range(8)] == [1, 2, 4, 8, 16, 32, 60, 60]


def test_a_steady_life_starts_the_delays_over():
    """A death after a minute of work is the first of a new row."""
    backoff = Backoff()
    for _ in range(4):
        backoff.died(after_s=0.5)

    assert (backoff.died(after_s=61.0), backoff.died(after_s=0.5)) == (1, 2)
