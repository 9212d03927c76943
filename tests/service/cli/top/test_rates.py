"""Rates of counters that are read now and then."""

import pytest

from service.cli.top.rates import Rates


def test_a_first_reading_has_no_rate():
    """Unknown is not 0."""
    rates = Rates()
    assert rates.of("m") is None
    rates.take(1.0, {"m": 100})
    assert rates.of("m") is None


def test_a_rate_is_over_the_window():
    """What was before it does not count, the reading at its begin does."""
    rates = Rates(window_s=5)
    for at_s, tokens in ((0, 0), (1, 1000), (2, 1000), (7, 1100)):
        rates.take(at_s, {"m": tokens})

    assert rates.of("m") == pytest.approx(20)


def test_a_counter_that_appears_starts_at_zero():
    """A model that was just loaded."""
    rates = Rates()
    rates.take(0, {})
    rates.take(2, {"m": 10})

    assert rates.of("m") == 5
    assert rates.of("other") == 0


@pytest.mark.parametrize("later", [{"m": 3}, {}])
def test_a_counter_that_falls_begins_anew(later):
    """The service was started again: no negative rate."""
    rates = Rates()
    rates.take(0, {"m": 100})
    rates.take(1, later)
    assert rates.of("m") is None
    rates.take(2, {"m": 8})
    assert rates.of("m") == 8 - later.get("m", 0)


def test_two_readings_at_one_moment_have_no_rate():
    """Nothing is divided by zero; and after a gap nothing is known."""
    rates = Rates()
    rates.take(1, {"m": 1})
    rates.take(1, {"m": 2})
    assert rates.of("m") is None
    rates.take(2, {"m": 2})
    rates.forget()
    assert rates.of("m") is None
