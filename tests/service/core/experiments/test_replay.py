"""Replays: pairs with the recorded answers, and typical ratios."""

import pytest

from service.core.experiments.replay import Original, arm_of, pair_of
from service.core.experiments.trial import Trial


def original(number=0, **changes):
    return Original(
        **{
            "request_id": f"req-{number}",
            "model": "a",
            "values": {"ttft_ms": 10.0, "prompt_tokens": 4, "memory_bytes": 100.0},
            "cold": False,
            "reused": False,
            "text_sha256": "same",
        }
        | changes
    )


def trial(number=0, ttft_ms=20.0, **changes):
    return Trial(
        **{
            "number": number,
            "arm": 0,
            "measure": "speed",
            "prompt_id": f"req-{number}",
            "repetition": 0,
            "state": "done",
            "request_id": f"new-{number}",
            "values": {"ttft_ms": ttft_ms, "memory_bytes": 50.0},
            "prompt_tokens": 5,
            "text_sha256": "same",
        }
        | changes
    )


def test_a_pair_names_both_requests_and_their_differences():
    """New minus recorded and new over recorded; what either does not know stays unknown."""
    pair = pair_of(trial(), original(), "b")
    assert (pair.original, pair.replay, pair.model, pair.original_model) == (
        "req-0", "new-0", "b", "a",
    )  # fmt: skip
    assert (pair.differences["ttft_ms"].absolute, pair.differences["ttft_ms"].ratio) == (10, 2)
    assert pair.differences["prompt_tokens"].ratio == 5 / 4
    assert pair.differences["tpot_ms"].ratio is None
    assert pair.same_text is True
    assert pair_of(trial(text_sha256="x"), original(), "b").same_text is False
    assert pair_of(trial(), original(text_sha256=None), "b").same_text is None


def test_a_failed_request_is_counted_and_compared_with_nothing():
    """Its reason stands in the pair."""
    failed = trial(state="failed", error="no room", request_id=None, values={}, text_sha256=None)
    pair = pair_of(failed, original(), "b")
    assert (pair.error, pair.differences, pair.same_text) == ("no room", {}, None)
    arm = arm_of(0, "b", [pair])
    assert (arm.pairs, arm.failed, arm.caveats) == (1, 1, ())
    assert arm.ratios["ttft_ms"].n == 0


def test_ratios_have_an_interval_from_six_pairs_on():
    """The median of ratios from the first; below, the note says how many are missing."""
    pairs = [
        pair_of(trial(n, ttft_ms=10 * ratio), original(n), "b")
        for n, ratio in enumerate((1.5, 1.8, 2.0, 2.1, 2.2, 2.6, 3.0))
    ]
    full = arm_of(0, "b", pairs).ratios["ttft_ms"]
    assert full.median == pytest.approx(2.1)
    assert 1.5 <= full.low < full.center < full.high <= 3.0
    few = arm_of(0, "b", pairs[:3]).ratios["ttft_ms"]
    assert (few.low, few.n) == (None, 3)
    assert few.median == pytest.approx(1.8)
    assert "6 needed" in few.note


def test_repetitions_of_a_conversation_count_once():
    """By their median: a conversation that is asked thrice is one observation."""
    pairs = [
        pair_of(trial(0, ttft_ms=ttft, repetition=n), original(), "b")
        for n, ttft in enumerate((20.0, 40.0, 30.0))
    ]
    ratio = arm_of(0, "b", pairs).ratios["ttft_ms"]
    assert (ratio.n, ratio.median) == (1, pytest.approx(3))


def test_cold_pairs_count_for_sizes_but_not_for_times():
    """Loading says nothing about the answer's speed, and changes none of its bytes."""
    arm = arm_of(0, "b", [pair_of(trial(), original(cold=True), "b")])
    assert (arm.cold, arm.ratios["ttft_ms"].n) == (1, 0)
    assert arm.ratios["memory_bytes"].median == pytest.approx(0.5)


def test_it_is_said_that_recorded_answers_reused_states():
    """Their TTFT was lower than any arm's alone could be."""
    pair = pair_of(trial(), original(reused=True), "b")
    assert any("reused states" in words for words in arm_of(0, "b", [pair]).caveats)


def test_it_is_said_that_recorded_times_were_taken_under_load():
    """Wherever a number is given."""
    assert "beside whatever else" in arm_of(0, "b", [pair_of(trial(), original(), "b")]).caveats[0]
