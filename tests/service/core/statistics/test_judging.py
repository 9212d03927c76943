"""Verdicts on comparisons."""

import numpy as np
import pytest

from service.core.statistics.judging import holm, judge
from service.core.statistics.paired import Comparison, Pair, compare_ratios, compare_shares, refuse

ARMS = ("a", "b")


def simulated(seed, ratio, noise, prompts):
    """Return a comparison of simulated latencies."""
    rng = np.random.default_rng(seed)
    base = rng.lognormal(3, 1, prompts)
    pairs = [
        Pair(
            prompt=index,
            a=value * np.exp(noise * rng.normal()),
            b=value * ratio * np.exp(noise * rng.normal()),
        )
        for index, value in enumerate(base)
    ]
    return compare_ratios("tpot_ms", ARMS, pairs)


def test_a_model_against_itself_is_no_difference():
    """Of 20 runs at least 19 say so, and none prefers an arm."""
    verdicts = [
        judge([simulated(seed, 1.0, 0.04, 400)], margin=0.02)[0].verdict for seed in range(20)
    ]

    assert verdicts.count("no_difference") >= 19
    assert not {"a", "b"} & set(verdicts)


def test_too_few_pairs_of_a_model_against_itself_are_undecided():
    """Noise with few pairs is undecided, never "no difference", and seldom an arm."""
    verdicts = [
        judge([simulated(seed, 1.0, 0.10, 12)], margin=0.02)[0].verdict for seed in range(40)
    ]

    assert "no_difference" not in verdicts
    assert verdicts.count("undecided") >= 36


@pytest.mark.parametrize(("better", "winner"), [("lower", "b"), ("higher", "a")])
def test_the_better_arm_is_named(better, winner):
    """A ratio of 0.9 favours b where less is better, and a where more is."""
    found = simulated(1, 0.9, 0.03, 60)

    (verdict,) = judge(
        [
            Comparison(
                **{**{f: getattr(found, f) for f in found.__struct_fields__}, "better": better}
            )
        ],
        margin=0.02,
    )

    assert verdict.verdict == winner
    assert verdict.kind == "resolved"
    assert verdict.low < verdict.ratio < verdict.high < 1


def test_an_unresolved_comparison_says_how_many_pairs_would_settle_it():
    """The number is right: of runs with so many pairs most are settled."""
    (verdict,) = judge([simulated(5, 1.05, 0.12, 20)], margin=0.02)
    assert verdict.kind == "unresolved"
    assert verdict.pairs_to_settle > verdict.n
    assert f"about {verdict.pairs_to_settle:,} pairs would settle it" in verdict.reason


def test_more_pairs_settle_it():
    """With four times the pairs that 5 % at this noise needs, 18 of 20 runs name the arm."""
    verdicts = [
        judge([simulated(seed, 1.05, 0.08, 250)], margin=0.02)[0].verdict for seed in range(20)
    ]

    assert verdicts.count("a") >= 18


def test_holm_raises_probabilities_step_by_step():
    """The least is multiplied by the count, the next by one less, and order is kept."""
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


def test_one_of_many_comparisons_needs_more_evidence():
    """What resolves alone may not resolve among twenty others."""
    found = next(
        each
        for each in (simulated(seed, 0.95, 0.08, 30) for seed in range(100))
        if 0.01 < each.p < 0.04 and each.high < 1
    )
    others = [simulated(seed, 1.0, 0.08, 30) for seed in range(20)]

    assert judge([found], margin=0.02)[0].kind == "resolved"
    among = judge([found, *others], margin=0.02)[0]
    assert among.kind == "unresolved"
    assert among.holm == 21


def test_a_refused_comparison_keeps_its_reason_and_is_no_test():
    """It does not count in Holm's correction."""
    verdicts = judge(
        [refuse("energy_j", ARMS, "no energy counter"), simulated(1, 0.9, 0.03, 60)], margin=0.02
    )

    assert (verdicts[0].verdict, verdicts[0].reason) == ("undecided", "no energy counter")
    assert verdicts[0].kind == "not_tested"
    assert verdicts[1].holm == 1


def test_exact_bytes_that_change_sides_are_undecided():
    """Less memory at some contexts and more at others is neither arm's."""
    pairs = [Pair(prompt=n, a=100.0, b=b) for n, b in enumerate([200.0, 100.0, 50.0])] * 2

    (verdict,) = judge([compare_ratios("memory_bytes", ARMS, pairs)], margin=0.02)

    assert verdict.kind == "unresolved"
    assert "both sides" in verdict.reason


def test_arms_that_both_know_everything_are_the_same():
    """Four hundred right answers of both lie within two points, a dozen do not."""
    asked = [Pair(prompt=index, a=1.0, b=1.0) for index in range(400)]

    (many,) = judge([compare_shares("recall", ARMS, asked)], margin=0.02)
    (few,) = judge([compare_shares("recall", ARMS, asked[:12])], margin=0.02)

    assert (many.verdict, few.verdict) == ("no_difference", "undecided")
