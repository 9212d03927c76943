"""Schedules are seeded and give every model the same."""

from collections import defaultdict
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from loadtest.arrivals import offsets_s
from loadtest.plan import Arrivals, Plan
from loadtest.schedule import schedule

PLAN = Plan(
    models=("a", "b", "c"),
    requests_per_model=50,
    block_requests=8,
    arrivals=Arrivals(rate_per_s=10),
)


@given(
    seed=st.integers(0, 2**32),
    requests=st.integers(1, 60),
    block=st.integers(1, 20),
    prompts=st.integers(1, 30),
)
def test_every_model_gets_the_same(seed: int, requests: int, block: int, prompts: int) -> None:
    """In each block all models have the same prompts at the same offsets."""
    plan = structs.replace(PLAN, seed=seed, requests_per_model=requests, block_requests=block)
    by_block: dict[int, set[object]] = defaultdict(set)
    models: dict[int, list[str]] = defaultdict(list)
    for turn in schedule(plan, prompts):
        by_block[turn.block].add(tuple((send.prompt, send.offset_s) for send in turn.sends))
        models[turn.block].append(turn.model)

    assert {len(turns) for turns in by_block.values()} == {1}
    assert {tuple(sorted(names)) for names in models.values()} == {("a", "b", "c")}


def test_numbers_count_all_requests() -> None:
    """Every request of a test has a number of its own, in order."""
    numbers = [send.number for turn in schedule(PLAN, 7) for send in turn.sends]

    assert numbers == list(range(150))


def test_prompts_are_used_evenly() -> None:
    """With as many requests as prompts each prompt is sent once to each model."""
    turns = schedule(PLAN, 50)

    sent = [send.prompt for turn in turns if turn.model == "a" for send in turn.sends]
    assert sorted(sent) == list(range(50))


def test_equal_seeds_give_equal_schedules() -> None:
    """A schedule is a function of its plan; another seed gives another one."""
    assert schedule(PLAN, 7) == schedule(PLAN, 7)
    assert schedule(PLAN, 7) != schedule(structs.replace(PLAN, seed=2), 7)


def test_the_order_of_models_varies() -> None:
    """No model always goes first."""
    first = {turn.model for turn in schedule(structs.replace(PLAN, block_requests=1), 7)[::3]}

    assert first == {"a", "b", "c"}


def test_constant_arrivals_are_evenly_spaced() -> None:
    """Ten a second are 100 ms apart, from 0."""
    offsets = offsets_s(Arrivals(process="constant", rate_per_s=10), 4, Random(1))

    assert offsets == pytest.approx((0, 0.1, 0.2, 0.3))


def test_poisson_arrivals_have_rate_and_spread() -> None:
    """Gaps have mean and standard deviation 1/rate, as an exponential distribution does."""
    offsets = offsets_s(Arrivals(rate_per_s=10), 20_000, Random(1))
    gaps = [later - earlier for earlier, later in pairwise(offsets)]
    mean = sum(gaps) / len(gaps)
    deviation = (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5

    assert min(gaps) >= 0
    assert mean == pytest.approx(0.1, rel=0.02)
    assert deviation == pytest.approx(0.1, rel=0.03)
