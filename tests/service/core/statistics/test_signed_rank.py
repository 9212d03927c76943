"""Wilcoxon's test, and the interval that belongs to it."""

import numpy as np
import pytest
from scipy import stats

from service.core.statistics import signed_rank


@pytest.mark.parametrize("n", [6, 9, 30, 80])
def test_probabilities_are_those_of_scipy(n):
    """The exact distribution is counted as scipy counts it."""
    values = np.random.default_rng(n).normal(0.2, 1, n)
    method = "exact" if n <= 50 else "approx"

    expected = stats.wilcoxon(values, method=method, correction=True).pvalue

    assert signed_rank.p_value(values) == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(40))
def test_interval_and_probability_agree(seed):
    """0 lies outside of the 95 % interval exactly if the probability is at most 5 %."""
    rng = np.random.default_rng(seed)
    values = rng.normal(0.5, 1, int(rng.integers(6, 40)))

    center = signed_rank.center(values)

    assert (not center.low <= 0 <= center.high) == (signed_rank.p_value(values) <= 0.05)


def test_many_values_are_centred_without_holding_all_pairs():
    """Bisection over the pairs gives what the sorted pairs give."""
    values = np.random.default_rng(0).normal(1, 1, 2000)
    held = signed_rank.center(values)

    searched = signed_rank.center(np.append(values, 1.0))

    assert searched.n == 2001
    assert searched.value == pytest.approx(held.value, abs=1e-3)
    assert searched.low == pytest.approx(held.low, abs=1e-3)
    assert searched.high == pytest.approx(held.high, abs=1e-3)


def test_five_values_have_no_interval():
    """Even five values of one sign have a probability of 1/16."""
    center = signed_rank.center(np.array([1.0, 1.1, 1.2, 1.3, 1.4]))

    assert (center.low, center.high) == (None, None)


def test_values_around_zero_are_no_evidence():
    """All zero: the probability is 1, not an error."""
    assert signed_rank.p_value(np.zeros(8)) == 1.0
