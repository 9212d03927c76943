"""Policies are pure functions of a route and of facts."""

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.core.routes.by_context import Threshold
from service.core.routes.cheapest import Objectives
from service.core.routes.decision import DecisionInputs, read_inputs
from service.core.routes.facts import ArmFacts, Prediction, RouteFacts
from service.core.routes.route import (
    Arm,
    ByContextRoute,
    CheapestRoute,
    FallbackRoute,
    LeastBusyRoute,
    WeightedRoute,
)
from service.serving.routes.policies import decide

NAMES = ("a", "b", "c")
ARMS = tuple(Arm(model=name) for name in NAMES)
BY_LENGTH = ByContextRoute(
    thresholds=(
        Threshold(model="a", up_to_tokens=100),
        Threshold(model="b", up_to_tokens=1000),
        Threshold(model="c"),
    )
)
LEAST = LeastBusyRoute(arms=ARMS)
CHEAPEST = CheapestRoute(arms=ARMS, explore=0)


def arm(model, tokens=50, **changes):
    known = {"context_tokens": 4096, "requests_limit": 8, "loaded": True, "load_bytes": 0}
    return ArmFacts(model=model, prompt_tokens=tokens, **(known | changes))


def facts(*arms, **changes):
    return RouteFacts(arms=arms or tuple(arm(name) for name in NAMES), **changes)


def cost(prefill_ms, tpot_ms=1.0, **changes):
    known = {"observations": 99, "near": 20, "wait_ms": 0.0, "answer_tokens": 11}
    return Prediction(prefill_ms=prefill_ms, tpot_ms=tpot_ms, **(known | changes))


# By context


@pytest.mark.parametrize(
    ("tokens", "model"), [(1, "a"), (100, "a"), (101, "b"), (1000, "b"), (1001, "c"), (3000, "c")]
)
def test_the_length_decides(tokens, model):
    """Thresholds are inclusive."""
    decided = decide(BY_LENGTH, facts(*(arm(name, tokens) for name in NAMES)))
    assert decided.arms[0] == model
    assert decided.reason.startswith(f"{tokens} prompt tokens")


def test_neighbours_follow_larger_first():
    """For an arm that fails before its first token."""
    assert decide(BY_LENGTH, facts(*(arm(name, 500) for name in NAMES))).arms == ("b", "c", "a")


def test_each_threshold_counts_its_own_models_tokens():
    """Tokenizers differ: 120 tokens of one are 90 of another."""
    assert decide(BY_LENGTH, facts(arm("a", 90), arm("b", 120), arm("c", 120))).arms[0] == "a"
    assert decide(BY_LENGTH, facts(arm("a", 120), arm("b", 90), arm("c", 90))).arms[0] == "b"


def test_an_arm_that_is_down_is_left_out_of_its_range():
    """The next larger one takes it, and the reason says why."""
    decided = decide(BY_LENGTH, facts(arm("a", down="failed to load"), arm("b"), arm("c")))
    assert decided.arms == ("b", "c")
    assert decided.reason == "50 prompt tokens (up to 100); a: failed to load"


@pytest.mark.parametrize(
    "fields",
    [
        {"thresholds": ()},
        {"thresholds": (Threshold(model="a", up_to_tokens=5),)},
        {"thresholds": (Threshold(model="a"), Threshold(model="b"))},
        {"thresholds": tuple(Threshold(model=m, up_to_tokens=n) for m, n in
                             (("a", 9), ("b", 9), ("c", None)))},
        {"experiment": "e"},
        {"experiment": "e", "between": ("a",)},
        {"thresholds": (Threshold(model="a"),), "between": ("a", "b")},
    ],
)  # fmt: skip
def test_thresholds_that_decide_nothing_are_refused(fields):
    """They ascend and end; an experiment takes models instead."""
    with pytest.raises(ValueError, match=r"threshold|experiment"):
        ByContextRoute(**fields)


# Least busy


def test_the_fewest_requests_win():
    """The others follow in order."""
    decided = decide(LEAST, facts(arm("a", requests=3), arm("b", requests=1), arm("c", requests=2)))
    assert decided.arms == ("b", "c", "a")
    assert decided.reason == "fewest requests (1)"


def test_a_loaded_arm_is_less_busy_than_one_to_load():
    """A load takes longer than a queue."""
    assert decide(LEAST, facts(arm("a", loaded=False), arm("b", requests=5))).arms[0] == "b"


def test_weights_are_capacities():
    """Twice the weight, twice the requests."""
    route = LeastBusyRoute(arms=(Arm(model="a", weight=4), Arm(model="b"), Arm(model="c")))
    busy = facts(arm("a", requests=3), arm("b", requests=1), arm("c", requests=1))
    assert decide(route, busy).arms[0] == "a"


def test_equals_are_drawn():
    """An idle service spreads requests instead of sending all to its first arm."""
    drawn = {decide(LEAST, facts(draw=draw / 10)).arms[0] for draw in range(10)}
    assert drawn == {"a", "b", "c"}


# Cheapest


def test_the_smallest_predicted_latency_wins():
    """Wait, prefill and decode together."""
    found = facts(
        arm("a", prediction=cost(10, 9.0)),
        arm("b", prediction=cost(50, 1.0)),
        arm("c", prediction=cost(1, 1.0, wait_ms=80.0)),
    )
    decided = decide(CHEAPEST, found)
    assert decided.arms == ("b", "c", "a")
    assert decided.reason == "60 ms predicted (others c: 91, a: 100)"


def test_memory_counts_the_state_and_a_load():
    """A model that has to be loaded first takes its weights, too."""
    found = facts(
        arm("a", prediction=cost(1, state_bytes=900.0)),
        arm("b", prediction=cost(1, state_bytes=10.0), loaded=False, load_bytes=10_000),
        arm("c", prediction=cost(1, state_bytes=500.0)),
    )
    route = CheapestRoute(arms=ARMS, minimize="memory", explore=0)
    assert decide(route, found).arms == ("c", "a", "b")


def test_energy_can_be_minimized():
    """Where it was measured."""
    found = facts(
        arm("a", prediction=cost(1, energy_uj=9.0)), arm("b", prediction=cost(9, energy_uj=3.0))
    )
    route = CheapestRoute(arms=ARMS[:2], minimize="energy", explore=0)
    assert decide(route, found).arms == ("b", "a")
    assert "3 µJ" in decide(route, found).reason


def test_objectives_come_before_the_cost():
    """The cheapest of those that meet them."""
    found = facts(
        arm("a", prediction=cost(90, 1.0, state_bytes=1.0)),
        arm("b", prediction=cost(20, 1.0, state_bytes=5.0)),
        arm("c", prediction=cost(10, 1.0, state_bytes=9.0)),
    )
    goal = Objectives(ttft_ms=50)
    route = CheapestRoute(arms=ARMS, minimize="memory", objectives=goal, explore=0)
    assert decide(route, found).arms == ("b", "c", "a")


def test_where_no_arm_meets_the_objectives_the_nearest_is_tried():
    """And the reason says that it does not."""
    found = facts(arm("a", prediction=cost(90)), arm("b", prediction=cost(60)))
    route = CheapestRoute(arms=ARMS[:2], objectives=Objectives(ttft_ms=50), explore=0)
    decided = decide(route, found)
    assert decided.arms == ("b", "a")
    assert "no arm meets the objectives" in decided.reason


def test_without_data_the_first_arm_that_fits_is_tried():
    """It says that it has none."""
    decided = decide(CHEAPEST, facts(arm("a", context_tokens=9), arm("b"), arm("c")))
    assert decided.arms == ("b", "c")
    assert decided.reason == (
        "no data on latency of any arm: the first that fits; b: no data; c: no data; "
        "a: context too small"
    )


def test_an_unknown_cost_is_never_taken_for_a_small_one():
    """An arm without energy readings is behind one with."""
    found = facts(arm("a", prediction=cost(1)), arm("b", prediction=cost(1, energy_uj=1e9)))
    route = CheapestRoute(arms=ARMS[:2], minimize="energy", explore=0)
    decided = decide(route, found)
    assert decided.arms == ("b", "a")
    assert decided.reason.endswith("a: energy unknown")


@pytest.mark.parametrize(("draw", "first"), [(0.04, "c"), (0.06, "b")])
def test_a_share_of_requests_explores_the_arm_that_is_known_least(draw, first):
    """The others go where the data says."""
    found = facts(
        arm("a", prediction=cost(50, near=5)),
        arm("b", prediction=cost(10)),
        arm("c", prediction=cost(99, near=1)),
        draw=draw,
    )
    decided = decide(CheapestRoute(arms=ARMS, explore=0.05), found)
    assert decided.arms[0] == first
    assert "c: 1 observations near this length" in decided.reason


# All of them

TOKENS = st.integers(1, 5000)
PREDICTIONS = st.none() | st.builds(
    cost,
    st.floats(0, 1e5),
    st.floats(0, 1e3),
    near=st.integers(0, 50),
    wait_ms=st.none() | st.floats(0, 1e4),
    state_bytes=st.none() | st.floats(0, 1e9),
    energy_uj=st.none() | st.floats(0, 1e9),
)


@st.composite
def cases(draw):
    """A route of any policy, and facts of its arms."""
    route = draw(
        st.sampled_from(
            [BY_LENGTH, LEAST, FallbackRoute(arms=ARMS), WeightedRoute(arms=ARMS)]
            + [
                CheapestRoute(arms=ARMS, minimize=what, objectives=goal, explore=0.3)
                for what in ("latency", "memory", "energy")
                for goal in (Objectives(), Objectives(ttft_ms=50, memory_bytes=10**6))
            ]
        )
    )
    arms = [
        arm(
            name,
            draw(TOKENS),
            context_tokens=draw(st.sampled_from([512, 2048, 8192])),
            down=draw(st.sampled_from([None, None, None, "failed to load"])),
            loaded=draw(st.booleans()),
            requests=draw(st.integers(0, 8)),
            load_bytes=draw(st.none() | st.integers(0, 10**9)),
            prediction=draw(PREDICTIONS),
        )
        for name in NAMES
    ]
    return route, facts(
        *arms,
        draw=draw(st.floats(0, 1, exclude_max=True)),
        key=draw(st.sampled_from([None, "k1", "k2"])),
        max_tokens=draw(st.none() | st.integers(1, 3000)),
    )


def fits(one, found):
    return one.prompt_tokens + (found.max_tokens or 1) <= one.context_tokens


@given(cases())
def test_no_arm_is_chosen_over_its_context_while_another_fits(case):
    """By any policy that may choose by length; what cannot answer now does not count as fitting."""
    route, found = case
    able = [
        one for one in found.arms
        if fits(one, found) and one.down is None and one.requests < one.requests_limit
    ]  # fmt: skip
    if able and not isinstance(route, WeightedRoute):
        chosen = decide(route, found).arms[0]
        assert chosen in [one.model for one in able]


@given(cases())
def test_every_decision_can_be_computed_again_from_what_is_recorded(case):
    """Through JSON, as the store keeps it."""
    route, found = case
    decided = decide(route, found)
    recorded = DecisionInputs(definition=route, facts=found, arms=decided.arms).to_json()
    inputs = read_inputs(msgspec.json.decode(msgspec.json.encode(recorded)))
    again = decide(inputs.definition, inputs.facts)
    assert (again.arms, again.reason) == (decided.arms, decided.reason)


@given(cases())
def test_arms_are_tried_once_each(case):
    """At least one, none twice, none that the route does not have."""
    decided = decide(*case)
    assert decided.arms
    assert len(set(decided.arms)) == len(decided.arms)
    assert set(decided.arms) <= set(NAMES)


@given(cases())
def test_cheapest_chooses_no_arm_that_costs_more_than_another_that_fits(case):
    """Unless it explores or has objectives to meet."""
    route, found = case
    if not isinstance(route, CheapestRoute) or route.objectives != Objectives():
        return
    chosen, *rest = decide(msgspec.structs.replace(route, explore=0), found).arms

    def of(model):
        one = next(each for each in found.arms if each.model == model)
        p = one.prediction
        if p is None:
            return math.inf
        parts = {
            "latency": (p.wait_ms, p.prefill_ms, p.tpot_ms * (p.answer_tokens - 1)),
            "memory": (p.state_bytes, one.load_bytes),
            "energy": (p.energy_uj,),
        }[route.minimize]
        return math.inf if None in parts else sum(parts)

    assert all(of(chosen) <= of(other) * (1 + 1e-9) for other in rest)
