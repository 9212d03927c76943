"""Curves against context."""

import numpy as np
import pytest

from service.core.statistics.curves import fit, points

CONTEXTS = (64, 128, 256, 512, 1024, 1536)


def test_exact_bytes_give_their_formula():
    """Keys and values grow by their bytes a token: 4096 + 768·L, R² = 1."""
    found = fit({tokens: [4096 + 768 * tokens] * 3 for tokens in CONTEXTS})

    assert found.form == "linear"
    assert found.coefficients == pytest.approx((4096, 768))
    assert found.r_squared == pytest.approx(1)


def test_a_parabola_is_chosen_where_it_earns_it():
    """Prefill of attention grows with the square."""
    rng = np.random.default_rng(0)
    found = fit(
        {
            tokens: (5 + 0.01 * tokens + 5e-5 * tokens**2) * np.exp(0.01 * rng.normal(size=9))
            for tokens in CONTEXTS
        }
    )

    assert found.form == "quadratic"
    assert found.coefficients[2] == pytest.approx(5e-5, rel=0.1)


def test_noise_seldom_earns_a_parabola():
    """On straight curves at most 5 of 100 fits are parabolas: the test is at 1 %."""
    rng = np.random.default_rng(1)
    forms = [
        fit({t: (5 + 0.01 * t) * np.exp(0.05 * rng.normal(size=5)) for t in CONTEXTS}).form
        for _ in range(100)
    ]

    assert forms.count("quadratic") <= 5


def test_two_contexts_carry_no_curve():
    """Any line goes through two points: nothing would be tested."""
    assert fit({64: [1.0], 128: [2.0]}) is None


def test_a_constant_state_has_a_slope_of_zero_and_no_r_squared():
    """Nothing varies, so nothing is explained."""
    found = fit(dict.fromkeys(CONTEXTS, [917_504.0] * 3))

    assert found.coefficients == pytest.approx((917_504, 0), abs=1e-6)
    assert found.r_squared is None


def test_slopes_are_held_by_their_intervals():
    """About 95 % of intervals hold the slope: 400 runs, ± 4 points."""
    rng = np.random.default_rng(2)
    held = 0
    for _ in range(400):
        found = fit({t: (5 + 0.01 * t) * np.exp(0.05 * rng.normal(size=5)) for t in CONTEXTS})
        held += found.lows[1] <= 0.01 <= found.highs[1]

    assert 0.91 < held / 400 < 0.99


def test_points_come_in_order_of_context():
    """Contexts without observations have no point."""
    assert [point.context_tokens for point in points({512: [1.0], 64: [2.0], 128: []})] == [64, 512]
