"""Paired comparisons."""

import numpy as np
import pytest

from service.core.statistics.paired import Pair, compare_ratios, compare_shares

ARMS = ("a", "b")


def pairs(ratios, repetitions=1, noise=0.0, seed=0):
    """Return pairs with these true ratios."""
    rng = np.random.default_rng(seed)
    return [
        Pair(
            prompt=index,
            a=10.0 * index + 10,
            b=(10.0 * index + 10) * ratio * np.exp(noise * rng.normal()),
        )
        for index, ratio in enumerate(ratios)
        for _ in range(repetitions)
    ]


def test_the_ratio_ignores_how_prompts_differ():
    """Prompts differ by orders of magnitude, ratios by 2 %: pairs see it."""
    found = compare_ratios("tpot_ms", ARMS, pairs([0.81, 0.82, 0.83, 0.82, 0.81, 0.83, 0.8, 0.84]))

    assert found.estimate == pytest.approx(0.82, abs=0.005)
    assert found.high < 0.85
    assert found.p < 0.02


def test_repetitions_of_a_prompt_count_once():
    """Seven prompts of ten repetitions are seven pairs, not seventy."""
    found = compare_ratios("tpot_ms", ARMS, pairs([0.9] * 7, repetitions=10, noise=0.1))

    assert found.n == 7


def test_repetitions_of_the_only_prompt_are_the_pairs():
    """With one prompt they must be, and the comparison says what that does not tell."""
    found = compare_ratios("tpot_ms", ARMS, pairs([0.9], repetitions=10, noise=0.01))

    assert found.n == 10
    assert "one prompt" in found.note


def test_five_pairs_are_refused():
    """Five pairs cannot carry 95 %."""
    found = compare_ratios("tpot_ms", ARMS, pairs([0.5, 0.51, 0.52, 0.5, 0.49]))

    assert found.refused == "5 pairs, 6 needed"
    assert found.p is None


def test_values_that_repeat_exactly_are_not_tested():
    """Bytes carry no noise: the range over prompts is given, no probability."""
    found = compare_ratios("memory_bytes", ARMS, pairs([0.5, 0.25, 0.1], repetitions=3))

    assert found.exact
    assert found.p is None
    assert (found.low, found.high) == (pytest.approx(0.1), pytest.approx(0.5))


def test_pairs_without_positive_values_are_counted_out():
    """A ratio to nothing is left out, and the note says how many were."""
    with_zero = [*pairs([0.9, 0.91, 0.92, 0.93, 0.9, 0.89]), Pair(prompt="zero", a=0.0, b=1.0)]

    found = compare_ratios("energy_j", ARMS, with_zero)

    assert found.n == 6
    assert found.note == "1 pair without positive values left out"


def test_right_answers_are_compared_by_question():
    """Eight questions of which b alone knows seven: b is better by 87.5 points."""
    asked = [Pair(prompt=index, a=0.0, b=float(index > 0)) for index in range(8)]

    found = compare_shares("recall", ARMS, [*asked, *asked])

    assert found.n == 8
    assert found.estimate == pytest.approx(0.875)
    assert found.p == pytest.approx(2 / 128)
    assert found.note == "repetitions of a question counted once"
