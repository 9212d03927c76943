"""Comparisons that may be looked at after every observation."""

import numpy as np
import pytest

from service.core.statistics.sequential import MINIMUM, Moments, compare_means, compare_shares


def looks(rng, draw_a, draw_b, count):
    """Yield the comparison after each of `count` observations, given to either arm by chance."""
    a, b = Moments(), Moments()
    for _ in range(count):
        if rng.random() < 0.5:
            a = a.added(draw_a())
        else:
            b = b.added(draw_b())
        yield compare_means(a, b)


def test_a_thousand_looks_stay_below_five_percent():
    """Of 200 pairs of the same arm, each looked at 1,000 times, fewer than 5 % are ever decided."""
    rng = np.random.default_rng(0)
    decided = sum(
        any(look.decided for look in looks(rng, rng.standard_normal, rng.standard_normal, 1000))
        for _ in range(200)
    )

    assert decided / 200 < 0.05


def test_a_difference_is_found():
    """Half a deviation is found within 1,000 observations, with the right sign."""
    rng = np.random.default_rng(1)
    for _ in range(10):
        found = next(
            look
            for look in looks(rng, rng.standard_normal, lambda: rng.normal(0.5), 1000)
            if look.decided
        )
        assert found.low > 0


def test_shares_looked_at_often_stay_below_five_percent():
    """The same holds for failures of one in ten."""
    rng = np.random.default_rng(2)
    decided = 0
    for _ in range(200):
        failed = np.cumsum(rng.random((2, 500)) < 0.1, axis=1)
        decided += any(
            compare_shares(int(failed[0, n - 1]), n, int(failed[1, n - 1]), n).decided
            for n in range(1, 501)
        )

    assert decided / 200 < 0.05


def test_few_observations_have_no_interval():
    """The normal approximation does not hold yet, and the reason says what is missing."""
    found = compare_means(Moments.of([1.0] * 10), Moments.of(range(100)))

    assert not found.decided
    assert found.reason == f"10 observations of one arm, {MINIMUM} needed"


def test_constant_arms_are_not_called_certain():
    """Without spread there is no interval of zero width."""
    found = compare_means(Moments.of([1.0] * 50), Moments.of([2.0] * 50))

    assert found.low is None
    assert not found.decided


def test_moments_are_those_of_numpy():
    """Welford's update gives mean and variance."""
    values = np.random.default_rng(3).normal(1e6, 1, 500)

    moments = Moments.of(values)

    assert moments.mean == pytest.approx(values.mean())
    assert moments.squares / 499 == pytest.approx(values.var(ddof=1))
