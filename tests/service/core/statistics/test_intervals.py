"""Medians, percentiles and shares with their intervals."""

import numpy as np
import pytest

from service.core.statistics import intervals


def test_the_median_of_equal_values_is_a_point():
    """A constant sample has the exact value, not an invented spread."""
    found = intervals.median([3.5, 3.5, 3.5])

    assert (found.value, found.low, found.high, found.confidence) == (3.5, 3.5, 3.5, 1.0)


def test_a_single_observation_has_no_interval():
    """One value says nothing about its spread."""
    found = intervals.median([3.5])

    assert (found.value, found.low, found.high) == (3.5, None, None)


def test_five_observations_say_their_own_confidence():
    """Least and greatest of five hold the median with 93.75 %, and the estimate says so."""
    found = intervals.median([5, 1, 4, 2, 3])

    assert (found.low, found.high, found.confidence) == (1, 5, 0.9375)


@pytest.mark.parametrize("n", [6, 15, 40])
def test_intervals_of_skewed_medians_hold_it(n):
    """About 95 % of intervals hold the median of a skewed distribution: 800 runs, ± 2.5 points."""
    rng = np.random.default_rng(n)
    held = 0
    for _ in range(800):
        found = intervals.median(rng.exponential(size=n))
        held += found.low <= np.log(2) <= found.high

    assert 0.925 < held / 800 < 0.985


@pytest.mark.parametrize(("share", "needed"), [(0.5, 6), (0.95, 72), (0.99, 368)])
def test_percentiles_need_enough_observations(share, needed):
    """p95 needs 72 observations and p99 368; with one fewer there is none."""
    assert intervals.observations_for(share) == needed
    assert intervals.percentile(range(needed - 1), share) is None
    found = intervals.percentile(range(needed), share)
    assert found is not None
    assert found.low < found.value < found.high


def test_intervals_of_p95_hold_it():
    """At least 95 % of order-statistic intervals hold the percentile."""
    rng = np.random.default_rng(2)
    held = 0
    for _ in range(800):
        found = intervals.percentile(rng.random(100), 0.95)
        held += found.low <= 0.95 <= found.high

    assert held / 800 > 0.93


def test_wilson_matches_a_published_example():
    """81 of 263: R. G. Newcombe, Statistics in Medicine 17 (1998), method 3."""
    found = intervals.wilson(81, 263)

    assert (round(found.low, 4), round(found.high, 4)) == (0.2553, 0.3662)


def test_unknown_observations_are_refused():
    """A NaN would silently become the median."""
    with pytest.raises(ValueError, match="finite"):
        intervals.median([1.0, float("nan")])
