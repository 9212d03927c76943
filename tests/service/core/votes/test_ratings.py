"""Ratings: order, intervals, and the refusal to rank."""

from service.core.votes.ratings import rate
from service.core.votes.vote import Vote


def votes(*outcomes):
    """Votes of `(left, right, choice, times)`."""
    return [
        Vote(
            vote_id=f"vote-{left}-{right}-{choice}-{number}",
            key=f"{left}{right}{choice}{number}",
            at_ns=number,
            source="api",
            route="blind",
            left_model=left,
            right_model=right,
            choice=choice,
            not_counted="both answers are of one arm" if left == right else None,
        )
        for left, right, choice, times in outcomes
        for number in range(times)
    ]


def test_a_model_that_is_mostly_preferred_is_ranked_first():
    """Whichever side it was shown on."""
    rated = rate(votes(("a", "b", "left", 30), ("b", "a", "right", 30), ("a", "b", "right", 4)),
                 route="blind", seed=1)  # fmt: skip
    first, second = rated.models
    assert (first.model, first.wins, first.losses) == ("a", 60, 4)
    assert first.strength > 0 > second.strength
    assert first.low <= first.strength <= first.high
    (pair,) = rated.pairs
    assert (pair.stronger, pair.ranked, pair.wins, pair.losses) == ("a", True, 60, 4)


def test_what_votes_cannot_tell_apart_is_not_ranked():
    """Overlapping intervals, or too few votes for any."""
    even = rate(votes(("a", "b", "left", 11), ("a", "b", "right", 9)), route=None, seed=1)
    few = rate(votes(("a", "b", "left", 3)), route=None, seed=1)
    assert [pair.ranked for pair in (*even.pairs, *few.pairs)] == [False, False]
    assert few.models[0].low is None


def test_ties_and_both_bad_are_counted_apart_and_half_a_win():
    """In the matrix they are halves."""
    rated = rate(votes(("a", "b", "tie", 3), ("a", "b", "both_bad", 1)), route=None, seed=1)
    assert {(each.ties, each.both_bad, each.wins) for each in rated.models} == {(3, 1, 0)}
    assert rated.wins == {"a": {"b": 2.0}, "b": {"a": 2.0}}
    assert abs(rated.models[0].strength) < 1e-6


def test_votes_on_one_arm_are_left_out_and_named():
    """Nothing is learned from them."""
    rated = rate(votes(("a", "a", "left", 5), ("a", "b", "left", 6)), route=None, seed=1)
    assert (rated.votes, rated.not_counted) == (6, {"both answers are of one arm": 5})


def test_no_votes_rate_nothing():
    """An empty table, and no error."""
    rated = rate([], route="blind", seed=0)
    assert (rated.votes, rated.models, rated.pairs, rated.wins) == (0, (), (), {})


def test_equal_seeds_give_equal_numbers():
    """The bootstrap can be repeated."""
    some = votes(("a", "b", "left", 7), ("b", "c", "left", 8), ("a", "c", "tie", 3))
    assert rate(some, route=None, seed=3) == rate(some, route=None, seed=3)
