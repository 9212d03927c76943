"""Strengths from votes."""

import numpy as np
import pytest

from service.core.statistics.bradley_terry import Vote, strengths


def votes(counts):
    """Return votes from counts by (left, right, choice)."""
    return [
        Vote(left=left, right=right, choice=choice)
        for (left, right, choice), count in counts.items()
        for _ in range(count)
    ]


def test_strengths_are_log_odds():
    """Of two models of which one wins three in four, strengths differ by log 3."""
    found = strengths(votes({("a", "b", "left"): 75, ("a", "b", "right"): 25}), resamples=200)

    assert [entry.model for entry in found] == ["a", "b"]
    assert found[0].strength - found[1].strength == pytest.approx(np.log(3), abs=0.01)
    assert found[0].low < found[0].strength < found[0].high
    assert found[0].low > found[1].high


def test_the_side_does_not_matter():
    """Wins on the right count as wins on the left."""
    left = strengths(votes({("a", "b", "left"): 10, ("a", "b", "right"): 5}), resamples=10)
    right = strengths(votes({("b", "a", "right"): 10, ("b", "a", "left"): 5}), resamples=10)

    assert [entry.strength for entry in left] == pytest.approx([entry.strength for entry in right])


@pytest.mark.parametrize("choice", ["tie", "both_bad"])
def test_ties_and_two_bad_answers_prefer_nobody(choice):
    """Each counts half a win for both."""
    found = strengths(votes({("a", "b", choice): 20}), resamples=50)

    assert [entry.strength for entry in found] == pytest.approx([0, 0], abs=1e-9)


def test_a_model_that_won_every_vote_has_a_finite_strength():
    """The prior of a hundredth of a vote keeps it from infinity."""
    found = strengths(votes({("a", "b", "left"): 12, ("b", "c", "left"): 12}), resamples=100)

    assert [entry.model for entry in found] == ["a", "b", "c"]
    assert all(np.isfinite([entry.strength, entry.low, entry.high]).all() for entry in found)


def test_few_votes_carry_no_interval():
    """Five votes for a model give it a strength only."""
    found = strengths(votes({("a", "b", "left"): 5}), resamples=20)

    assert {(entry.low, entry.high) for entry in found} == {(None, None)}


def test_no_votes_are_no_strengths():
    """An empty table, not an error."""
    assert strengths([]) == []


def test_a_model_cannot_beat_itself():
    """Such a vote is a mistake of the caller."""
    with pytest.raises(ValueError, match="two models"):
        strengths(votes({("a", "a", "left"): 1}))
