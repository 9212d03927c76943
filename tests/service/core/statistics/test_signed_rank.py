"""Wilcoxon's test of paired differences."""

import numpy as np
import pytest

from service.core.statistics import signed_rank


@pytest.mark.parametrize("n", [6, 30, 80])
def test_five_in_a_hundred_are_called_unlikely(n):
    """Where arms do not differ, at most 5 % of 1,000 probabilities are below 5 %, and some are."""
    rng = np.random.default_rng(n)
    unlikely = sum(signed_rank.p_value(rng.standard_t(3, n)) < 0.05 for _ in range(1000))

    assert 15 < unlikely < 70


def test_six_of_one_sign_are_one_in_thirty_two():
    """The least probability that six pairs can have."""
    assert signed_rank.p_value(np.arange(1.0, 7.0)) == pytest.approx(2 / 64)


def test_equal_differences_are_evidence():
    """Ties have a probability too, without a warning."""
    assert signed_rank.p_value(np.full(20, 0.1)) < 0.001


def test_no_difference_is_no_evidence():
    """All zero: the probability is 1, not an error."""
    assert signed_rank.p_value(np.zeros(8)) == 1.0
