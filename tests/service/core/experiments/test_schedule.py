"""Schedules: complete, paired, in an order that only the seed decides."""

from collections import Counter
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from service.core.experiments.plan import (
    Arm,
    Conversation,
    InlinePrompts,
    Plan,
    SyntheticPrompts,
)
from service.core.experiments.schedule import ProbeSlot, Slot, schedule, size_class

plans = st.builds(
    Plan,
    name=st.just("plan"),
    arms=st.integers(1, 4).map(lambda n: tuple(Arm(model=f"m{i}") for i in range(n))),
    prompts=st.builds(
        SyntheticPrompts,
        context_tokens=st.lists(st.integers(1, 64), min_size=1, max_size=4, unique=True).map(tuple),
    ),
    measures=st.sets(st.sampled_from(["speed", "memory", "turns"]), min_size=1, max_size=3).map(
        lambda measures: tuple(sorted(measures))
    ),
    conversation=st.builds(Conversation, turns=st.integers(2, 5)),
    repetitions=st.integers(1, 4),
    seed=st.integers(0, 2**31),
)


@given(plans)
def test_each_arm_sees_each_prompt_once_a_repetition(plan):
    """Arms have the same pairing keys, each once."""
    by_arm = [
        Counter(trial.pairing for trial in schedule(plan) if trial.arm == arm and not trial.warmup)
        for arm in range(len(plan.arms))
    ]

    assert all(keys == by_arm[0] for keys in by_arm)
    assert set(by_arm[0].values()) == {1}


@given(plans)
def test_repetitions_follow_each_other_in_blocks(plan):
    """What drifts over the run meets all arms alike; numbers are positions."""
    order = schedule(plan)
    repetitions = [trial.repetition for trial in order if not trial.warmup]

    assert repetitions == sorted(repetitions)
    assert [trial.number for trial in order] == list(range(len(order)))


@given(plans)
def test_every_arm_is_warmed_up_at_every_length_before_anything_counts(plan):
    """Warm-ups come first, on a text that no measured trial has."""
    order = schedule(plan)
    warm = [trial for trial in order if trial.warmup]
    measured = [trial for trial in order if not trial.warmup]

    assert warm == list(order[: len(warm)])
    assert {(t.arm, t.context_tokens) for t in measured} <= {
        (t.arm, t.context_tokens) for t in warm
    }
    assert {t.prompt_id for t in warm}.isdisjoint(t.prompt_id for t in measured)


@given(plans)
def test_turns_of_a_conversation_stay_together_and_in_order(plan):
    """Turn n + 1 of an arm follows its turn n at once."""
    order = schedule(plan)
    for trial, following in pairwise(order):
        if trial.turn is not None and following.turn not in (None, 1):
            assert (following.arm, following.prompt_id) == (trial.arm, trial.prompt_id)
            assert following.turn == trial.turn + 1


@given(plans, st.integers(0, 2**31))
def test_the_order_depends_on_the_seed_alone(plan, seed):
    """The same plan gives the same order; another seed the same trials."""
    other = structs.replace(plan, seed=seed)

    def trials(of):
        return Counter((t.arm, t.measure, t.pairing, t.warmup) for t in schedule(of))

    assert schedule(plan) == schedule(structs.replace(plan))
    assert trials(plan) == trials(other)


def test_every_arm_comes_first_for_some_seed():
    """The order is shuffled, not that of the plan."""
    plan = Plan(name="p", arms=(Arm(model="a"), Arm(model="b"), Arm(model="c")), repetitions=1)
    firsts = {
        next(t.arm for t in schedule(structs.replace(plan, seed=seed)) if not t.warmup)
        for seed in range(30)
    }

    assert firsts == {0, 1, 2}


def test_prompts_of_the_plan_are_warmed_up_once_a_length():
    """Prompts of one length class share a warm-up."""
    plan = Plan(
        name="p", arms=(Arm(model="a"),), prompts=InlinePrompts(items=("x",)), repetitions=2
    )
    slots = [
        Slot(prompt_id=text, size=size_class(text)) for text in ("ab", "abc", "a" * 40, "b" * 41)
    ]
    order = schedule(plan, slots)

    assert [t.prompt_id for t in order if t.warmup].count("ab") == 1
    assert sum(t.warmup for t in order) == 2
    assert sum(not t.warmup for t in order) == 8


def test_probes_are_given_to_each_arm_in_their_repetition():
    """An item belongs to one repetition; every arm gets it."""
    plan = Plan(
        name="p", arms=(Arm(model="a"), Arm(model="b")), measures=("probes",), repetitions=2
    )
    probes = [
        ProbeSlot(prompt_id=f"recall-4-{n}", probe="recall", level=4, repetition=n)
        for n in range(2)
    ]
    order = schedule(plan, probes=probes)

    assert {(t.arm, t.prompt_id, t.repetition) for t in order} == {
        (arm, f"recall-4-{n}", n) for arm in (0, 1) for n in (0, 1)
    }
