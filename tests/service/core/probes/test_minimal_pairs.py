"""Minimal pairs: files of two forms, and judgements by log-probability."""

import pytest

from service.core.errors import InvalidRequest
from service.core.probes.minimal_pairs import (
    MinimalPair,
    judged,
    pair_results,
    read_pairs,
    texts_of,
)
from service.core.scores.score import TextScore


def scored(*log_probabilities):
    return [
        TextScore(
            log_probability=each, bits_per_byte=1.0, bytes=1, tokens=1, windows=1, request_ids=()
        )
        for each in log_probabilities
    ]


def test_both_forms_of_files_are_read():
    """BLiMP's own names, and short ones; empty lines are skipped."""
    lines = [
        '{"sentence_good": "a", "sentence_bad": "b", "UID": "u", "linguistics_term": "island"}',
        "",
        b'{"good": "c", "bad": "d"}',
    ]
    pairs = read_pairs(lines)
    assert pairs == (
        MinimalPair(good="a", bad="b", group="island"),
        MinimalPair(good="c", bad="d"),
    )
    assert texts_of(pairs) == ("a", "b", "c", "d")


@pytest.mark.parametrize("line", ["{", '{"good": "a"}', '{"good": "a", "bad": ""}', "[]"])
def test_a_line_without_a_pair_is_named(line):
    """By its number in the file."""
    with pytest.raises(InvalidRequest, match="line 2"):
        read_pairs(['{"good": "a", "bad": "b"}', line])


def test_the_likelier_sentence_decides_and_a_tie_is_wrong():
    """By the log-probability of the whole, not by bits per byte."""
    assert judged(scored(-1, -2, -3, -3, -5, -4)) == (True, False, False)


def test_accuracy_is_told_over_all_and_by_group():
    """Pairs without a group count for the whole only."""
    pairs = [MinimalPair(good="a", bad="b", group=group) for group in ("x", "y", "x", None)]
    results = pair_results(pairs, (True, False, False, True))
    assert [(r.group, r.right, r.pairs) for r in results] == [
        (None, 2, 4), ("x", 1, 2), ("y", 0, 1),
    ]  # fmt: skip
