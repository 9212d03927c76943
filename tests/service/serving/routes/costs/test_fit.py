"""Fits of a few terms with non-negative coefficients."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.serving.routes.costs.fit import fit

COEFFICIENTS = st.lists(st.floats(0, 10).map(lambda x: round(x, 2)), min_size=3, max_size=3)


@given(COEFFICIENTS)
def test_what_has_no_noise_is_found_again(coefficients):
    """Predictions are exact, whichever of the coefficients are 0."""
    rows = [(1, x, x * x) for x in range(1, 30)]
    values = [sum(c * term for c, term in zip(coefficients, row, strict=True)) for row in rows]
    found = fit(rows, values)
    assert found is not None
    assert [found.at(*row) for row in rows] == pytest.approx(values, rel=1e-4, abs=1e-4)


@given(st.lists(st.tuples(st.floats(0, 1e4), st.floats(0, 1e6)), min_size=1, max_size=40))
def test_no_coefficient_is_negative(points):
    """Whatever the values: no prediction of a time or of bytes is below 0."""
    found = fit([(1, x) for x, _ in points], [y for _, y in points])
    assert found is None or min(found.coefficients) >= 0


def test_falling_values_have_their_mean_instead_of_a_negative_slope():
    """The term is left out."""
    found = fit([(1, x) for x in range(1, 10)], [10 - x / 100 for x in range(1, 10)])
    assert found.coefficients[1] == 0
    assert found.at(1, 1000) == pytest.approx(9.95, rel=0.01)


def test_one_observation_gives_no_curve():
    """Nor do none."""
    assert fit([(1, 5)], [3.0]) is None
    assert fit([], []) is None


def test_a_term_that_never_occurred_has_no_effect():
    """As the load, where nothing ran beside."""
    found = fit([(1, x, 0) for x in range(1, 9)], [2.0 * x for x in range(1, 9)])
    assert found.at(1, 10, 7) == pytest.approx(20)
