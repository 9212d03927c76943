"""Labels of the chart stay apart, in order, and near their lines."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.cli.models.memory_plot import spread

HEIGHTS = st.lists(st.floats(0, 1), min_size=1, max_size=12)


@given(HEIGHTS)
def test_labels_do_not_overlap(heights):
    """Any two labels are at least the gap apart."""
    placed = sorted(spread(heights, 0.05))

    assert all(b - a > 0.05 - 1e-9 for a, b in itertools.pairwise(placed))


@given(HEIGHTS)
def test_labels_keep_the_order_of_their_lines(heights):
    """A higher line has the higher label."""
    placed = spread(heights, 0.05)
    order = sorted(range(len(heights)), key=heights.__getitem__)

    assert order == sorted(order, key=placed.__getitem__)


def test_labels_far_apart_stay():
    """Labels with room are not moved; crowded ones share their mean."""
    assert spread([0.1, 0.5, 0.5, 0.9], 0.1) == pytest.approx([0.1, 0.45, 0.55, 0.9])
