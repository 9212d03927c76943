"""Decisions about memory: never too much, the least valuable goes, nobody who must stay does."""

from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from service.serving.memory.eviction import (
    Evict,
    Fits,
    Never,
    Resident,
    Wait,
    may_overtake,
    plan,
    refusal,
    value_per_byte,
)

NOW_NS = 1_000_000

SIZES = st.integers(0, 1000)


@st.composite
def residents(draw):
    count = draw(st.integers(0, 6))
    return [
        Resident(
            id=f"m{index}",
            held_bytes=draw(SIZES),
            state_bytes=draw(SIZES) if busy else 0,
            pinned=draw(st.booleans()),
            busy=busy,
            leaving=draw(st.booleans()),
            last_used_ns=draw(st.integers(0, NOW_NS - 1)),
            load_ns=draw(st.none() | st.integers(1, 10**9)),
        )
        for index in range(count)
        for busy in (draw(st.booleans()),)
    ]


def held(ones):
    return sum(one.total_bytes for one in ones)


@given(SIZES, st.integers(1, 5000), residents(), st.none() | st.just("m0"))
def test_what_is_admitted_is_never_over_the_budget(need, budget, here, keep):
    """Room is promised only where the numbers say so, when all who were named have gone."""
    match plan(need, budget, here, now_ns=NOW_NS, keep=keep):
        case Fits():
            assert held(here) + need <= budget
        case Evict(ids):
            left = [one for one in here if one.id not in ids and not one.leaving]
            kept = [one for one in here if one.leaving and one.id == keep]
            assert held(left) + held(kept) + need <= budget
            assert held(here) + need > budget
        case Wait(ids):
            stay = [one for one in here if one.id not in ids and not one.leaving]
            kept = [one for one in here if one.leaving and one.id == keep]
            assert sum(one.held_bytes for one in (*stay, *kept)) + need <= budget
        case Never(pinned):
            fixed = [one for one in here if one.id in pinned or one.id == keep]
            assert sum(one.held_bytes for one in fixed) + need > budget


@given(SIZES, st.integers(1, 5000), residents(), st.none() | st.just("m0"))
def test_nobody_who_must_stay_is_told_to_go(need, budget, here, keep):
    """Not the pinned, the asking, nor those already leaving; busy ones only to be waited for."""
    of = {one.id: one for one in here}
    match plan(need, budget, here, now_ns=NOW_NS, keep=keep):
        case Evict(ids):
            chosen = [of[name] for name in ids]
            assert not any(one.busy for one in chosen)
        case Wait(ids):
            chosen = [of[name] for name in ids]
        case _:
            chosen = []
    assert not any(one.pinned or one.leaving or one.id == keep for one in chosen)


@given(SIZES, st.integers(1, 5000), residents())
def test_nobody_goes_in_vain(need, budget, here):
    """Without any one of those who go there would be too little room."""
    decided = plan(need, budget, here, now_ns=NOW_NS)
    if isinstance(decided, Evict):
        chosen = [one for one in here if one.id in decided.ids]
        missing = held(here) + need - budget - held(one for one in here if one.leaving)
        assert all(held(chosen) - one.total_bytes < missing for one in chosen)


@given(st.integers(1, 1000), residents())
def test_of_models_of_one_size_the_least_valuable_goes(need, here):
    """Where any one suffices, it is the one whose bytes save the least."""
    idle = [structs.replace(one, held_bytes=1000, busy=False, state_bytes=0) for one in here]
    idle = [one for one in idle if not (one.pinned or one.leaving)]
    decided = plan(need, held(idle), idle, now_ns=NOW_NS)
    if idle:
        (gone,) = decided.ids
        values = {one.id: value_per_byte(one, NOW_NS) for one in idle}
        assert values[gone] == min(values.values())


def test_old_and_cheap_goes_before_new_and_dear():
    """Age, cost of a load and size decide together."""
    old = Resident(id="old", held_bytes=10, last_used_ns=0, load_ns=5)
    new = Resident(id="new", held_bytes=10, last_used_ns=NOW_NS - 10, load_ns=5)
    dear = Resident(id="dear", held_bytes=10, last_used_ns=0, load_ns=5_000_000)
    assert plan(10, 30, [new, dear, old], now_ns=NOW_NS) == Evict(("old",))
    assert plan(20, 30, [new, dear, old], now_ns=NOW_NS) == Evict(("old", "new"))


def test_a_large_one_that_suffices_spares_the_small():
    """A small model was chosen first, and is spared when the larger one is needed anyhow."""
    small = Resident(id="small", held_bytes=1, load_ns=1)
    large = Resident(id="large", held_bytes=50, load_ns=1_000_000)
    assert plan(50, 60, [small, large], now_ns=NOW_NS) == Evict(("large",))


def test_running_requests_are_waited_for_before_a_busy_model_must_go():
    """Their state comes free by itself."""
    busy = Resident(id="busy", held_bytes=50, state_bytes=30, busy=True)
    assert plan(40, 100, [busy], now_ns=NOW_NS) == Wait(())
    assert plan(60, 100, [busy], now_ns=NOW_NS) == Wait(("busy",))


def test_a_model_that_fits_nowhere_is_told_so_in_numbers():
    """What is needed, what is free, and what to do."""
    here = [Resident(id="one", held_bytes=2048)]
    decided = plan(8192, 4096, here, now_ns=NOW_NS)
    assert decided == Never(())
    assert refusal("two", 8192, 4096, here, decided, fix="raise it") == (
        "two needs 8 KiB; of the memory budget of 4 KiB, 2 KiB are free. It can never fit: raise "
        "it."
    )


def test_pinned_models_in_the_way_are_named():
    """Someone may unpin them."""
    here = [Resident(id="one", held_bytes=2048, pinned=True), Resident(id="x", held_bytes=1024)]
    decided = plan(3072, 4096, here, now_ns=NOW_NS)
    assert decided == Never(("one",))
    assert refusal("two", 3072, 4096, here, decided, fix="").endswith(
        "It fits if these pinned models are unpinned: one (2 KiB)."
    )


@given(SIZES, SIZES, st.integers(1, 5000), residents())
def test_nobody_overtakes_at_the_cost_of_the_first(need, first, budget, here):
    """Whoever is let past leaves the first its room, and is itself within the budget."""
    if need and may_overtake(need, first, budget, here):
        stay = [one for one in here if not one.leaving]
        assert held(here) + need <= budget
        assert held(stay) + need + first <= budget
