"""Estimates of step times against steps of a known cost."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.torch_host.scheduling.step_times import StepTimeModel

FIXED_NS, TOKEN_NS = 7_000_000, 300_000


def cost_ns(size):
    return FIXED_NS + TOKEN_NS * size


def trend(*sizes, cost=cost_ns):
    learned = StepTimeModel()
    for size in sizes:
        learned.observe(size, cost(size))
    return learned


def test_nothing_is_known_before_the_first_step():
    """Without a step there is no estimate, and no size that is too large."""
    assert StepTimeModel().mean_size is None
    assert StepTimeModel().mean_duration_ns is None
    assert StepTimeModel().duration_ns(8) == 0
    assert StepTimeModel().size_within(1e6) is None


def test_two_sizes_tell_fixed_time_and_time_per_token():
    """A line is found exactly, also far from the sizes that were seen."""
    learned = trend(32, 128)

    assert learned.duration_ns(512) == pytest.approx(cost_ns(512))
    assert learned.size_within(cost_ns(400) + 1) == 400


def test_one_size_tells_time_in_proportion():
    """Without a second size a step of twice the size is taken to be twice as long."""
    learned = trend(64, 64, 64)

    assert learned.duration_ns(128) == pytest.approx(2 * cost_ns(64))


def test_a_budget_below_the_fixed_time_has_room_for_nothing():
    """A size is never negative."""
    assert trend(32, 128).size_within(FIXED_NS / 2) == 0


def test_without_a_limit_every_size_fits():
    """An endless budget has no largest size."""
    assert trend(32, 128).size_within(float("inf")) is None


def test_means_of_the_latest_steps_are_reported():
    """Equal steps have themselves as their mean."""
    learned = trend(64, 64)

    assert (learned.mean_size, learned.mean_duration_ns) == (64, cost_ns(64))
    assert learned.mean_unit_ns == cost_ns(64) / 64


def test_an_estimate_follows_a_change():
    """When steps become three times as long, thirty steps later the estimate is right."""
    learned = trend(*[32, 128] * 10)
    for size in [32, 128] * 15:
        learned.observe(size, 3 * cost_ns(size))

    assert learned.duration_ns(100) == pytest.approx(3 * cost_ns(100), rel=0.05)


def test_chunks_chosen_by_the_estimate_settle_at_the_budget():
    """Each chunk is as large as the last ones say; from a first small one on they fill 90 ms."""
    dice = random.Random(1)
    learned = trend(32)
    durations = []
    for _ in range(30):
        size = learned.size_within(90e6)
        durations.append(cost_ns(size) * dice.uniform(0.97, 1.03))
        learned.observe(size, round(durations[-1]))

    assert all(80e6 < duration < 100e6 for duration in durations[4:])


@given(st.lists(st.tuples(st.integers(1, 1024), st.integers(1, 10**10)), min_size=1, max_size=40))
def test_an_estimate_is_sane_after_any_steps(steps):
    """Durations never fall with the size, are never negative, and agree with sizes."""
    learned = StepTimeModel()
    for size, duration_ns in steps:
        learned.observe(size, duration_ns)
    durations = [learned.duration_ns(size) for size in (1, 16, 256, 1024)]

    assert durations[0] >= 0
    assert durations == sorted(durations)
    assert learned.size_within(durations[2] * (1 + 1e-9) + 1) >= 256
