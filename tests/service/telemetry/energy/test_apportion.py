"""Energy of one request among several: what each moment's requests share equally."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.telemetry.energy.apportion import Reading, Window, share_uj

#: 1 µJ a nanosecond until 100, 3 until 200.
READINGS = [Reading(0, 0), Reading(100, 100), Reading(200, 400)]


def test_a_request_alone_gets_what_flows_while_it_runs():
    """Half of the first interval, and half of the second."""
    assert share_uj(READINGS, Window(50, 150), []) == 50 + 150


def test_requests_at_the_same_time_share_equally():
    """From 80 on there are two, from 120 on three: of 20, 60 and 90 µJ."""
    others = [Window(80, 200), Window(120, 160)]
    assert share_uj(READINGS, Window(60, 150), others) == pytest.approx(
        20 + 20 / 2 + 60 / 2 + 90 / 3
    )


def test_requests_one_after_another_share_nothing():
    """A window that ends where another begins does not overlap with it."""
    assert share_uj(READINGS, Window(50, 100), [Window(0, 50), Window(100, 200)]) == 50


@pytest.mark.parametrize("window", [Window(150, 250), Window(-1, 50), Window(300, 400)])
def test_what_the_readings_do_not_cover_is_unknown(window):
    """Nothing is extrapolated."""
    assert share_uj(READINGS, window, []) is None
    assert share_uj([], window, []) is None


def test_a_window_of_no_length_gets_nothing():
    """A request that ended in the step in which it began to be measured."""
    assert share_uj(READINGS, Window(50, 50), [Window(0, 100)]) == 0


times = st.integers(0, 1000)
windows = st.lists(
    st.tuples(times, times).map(lambda pair: Window(min(pair), max(pair))), min_size=1, max_size=8
)
growth = st.lists(st.integers(0, 10**6), min_size=10, max_size=10)


@given(windows, growth)
def test_parts_add_up_to_what_flowed_while_anything_ran(windows, growth):
    """Whatever overlaps: nothing is counted twice, and nothing that belongs to somebody is lost."""
    readings, energy_uj = [Reading(0, 0)], 0
    for place, more_uj in enumerate(growth):
        energy_uj += more_uj
        readings.append(Reading(100 * (place + 1), energy_uj))
    parts = [
        share_uj(readings, window, windows[:place] + windows[place + 1 :])
        for place, window in enumerate(windows)
    ]
    busy_uj = sum(
        growth[moment // 100] / 100
        for moment in range(1000)
        if any(window.start_ns <= moment < window.end_ns for window in windows)
    )
    assert sum(parts) == pytest.approx(busy_uj)
