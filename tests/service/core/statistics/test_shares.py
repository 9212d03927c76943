"""Right and wrong answers of two arms."""

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import xlogy

from service.core.statistics import shares


def likeliest(table, delta):
    """Return only_a's likeliest share if b's share exceeds a's by `delta`, found by search."""

    def unlikelihood(share):
        return -(
            xlogy(table.only_b, share + delta)
            + xlogy(table.only_a, share)
            + xlogy(table.both + table.neither, 1 - 2 * share - delta)
        )

    bounds = (max(0.0, -delta), (1 - delta) / 2)
    return minimize_scalar(unlikelihood, bounds=bounds, options={"xatol": 1e-12}).x


@pytest.mark.parametrize("counts", [(20, 4, 9, 7), (43, 1, 3, 0), (5, 5, 5, 5), (90, 2, 7, 1)])
def test_bounds_are_where_the_score_is_critical(counts):
    """At each bound the score of the likeliest shares, found by search, is 1.96."""
    both, only_a, only_b, neither = counts
    table = shares.Table(both=both, only_a=only_a, only_b=only_b, neither=neither)
    found = shares.difference(table)

    for bound in (found.low, found.high):
        variance = 2 * likeliest(table, bound) + bound - bound**2
        score = (only_b - only_a - table.n * bound) / np.sqrt(table.n * variance)
        assert abs(score) == pytest.approx(1.95996, abs=1e-3)


def test_mcnemar_tosses_the_discordant_pairs():
    """9 of 10 discordant pairs on one side: 22/1024."""
    table = shares.Table(both=50, only_a=9, only_b=1, neither=40)

    assert shares.mcnemar(table) == pytest.approx(22 / 1024)


def test_no_discordant_pair_is_no_evidence():
    """Arms that always agree have the probability 1, and an interval around 0 none the less."""
    table = shares.Table(both=10, only_a=0, only_b=0, neither=0)

    assert shares.mcnemar(table) == 1.0
    assert shares.difference(table).low < 0 < shares.difference(table).high


@pytest.mark.parametrize("counts", [(0, 8, 0, 0), (0, 0, 8, 0)])
def test_arms_that_never_agree_have_a_one_sided_interval(counts):
    """A difference of ± 1 is the end of the scale."""
    both, only_a, only_b, neither = counts
    found = shares.difference(
        shares.Table(both=both, only_a=only_a, only_b=only_b, neither=neither)
    )

    assert found.value in (found.low, found.high)
    assert abs(found.high - found.low) > 0.2


def test_intervals_hold_the_difference():
    """About 95 % of intervals hold the true difference: 800 runs, ± 2.5 points."""
    rng = np.random.default_rng(3)
    held = 0
    for _ in range(800):
        drawn = [int(count) for count in rng.multinomial(60, [0.45, 0.10, 0.25, 0.20])]
        table = shares.Table(both=drawn[0], only_a=drawn[1], only_b=drawn[2], neither=drawn[3])
        found = shares.difference(table)
        held += found.low <= 0.15 <= found.high

    assert 0.925 < held / 800 < 0.985
