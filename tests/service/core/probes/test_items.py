"""Probes are repeatable, of the level that was asked for, and answered by their conversation."""

import pytest

from model_registry.reference import synthetic
from service.core.errors import InvalidRequest
from service.core.probes import DEFAULT_LEVELS, KINDS, graded, probe_items

ITEMS = [(kind, item) for kind in KINDS for item in probe_items(kind, 3, per_level=2)]


def words_of(messages):
    return sum(len(message.content.split()) for message in messages)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_gives_the_same_items(kind):
    """And another seed others; more items a level leave the first ones as they are."""
    items = probe_items(kind, 1, per_level=2)
    assert items == probe_items(kind, 1, per_level=2)
    assert items != probe_items(kind, 2, per_level=2)
    more = probe_items(kind, 1, per_level=3)
    assert set(map(repr, items)) < set(map(repr, more))
    assert [item.level for item in items] == [
        level for level in DEFAULT_LEVELS[kind] for _ in range(2)
    ]


@pytest.mark.parametrize(("kind", "item"), ITEMS)
def test_its_own_answer_is_right_and_others_are_not(kind, item):
    """Nothing, and the answer to the same question about something else, are wrong."""
    assert item.probe == kind
    assert item.messages[-1].role == "user"
    assert graded(item, item.answer)
    assert not graded(item, "")
    assert not graded(item, item.answer + " " + item.answer + " violin tiger 5")


@pytest.mark.parametrize("kind", ["recall", "recall_distance", "needle"])
def test_what_is_recalled_was_stated(kind):
    """The pair stands in the conversation, on one line, before it is asked for."""
    for item in probe_items(kind, 5, per_level=3):
        lines = [line for message in item.messages for line in message.content.split("\n")]
        key, value = item.answer.split()
        assert lines.count(item.answer) == 1
        assert item.messages[-1].content == f"What goes with {key}?"
        assert graded(item, f"{key.title()} goes with {value}.")
        assert not graded(item, key)
        wrong = next(other for other in synthetic.VALUES if other != value)
        assert not graded(item, f"{value} or {wrong}")


@pytest.mark.parametrize("level", [0, 3, 64, 500])
def test_a_distance_is_as_long_as_asked_for(level):
    """In words between the acknowledged pairs and the question, at most two fewer."""
    for item in probe_items("recall_distance", 1, [level], 3):
        assert level - 2 <= words_of(item.messages[2:-1]) <= level


def test_a_needle_lies_at_its_depth():
    """Words before it are that share of all words around it."""
    for item in probe_items("needle", 1, [0, 30, 100], 3, context_words=200):
        contents = [message.content for message in item.messages]
        at = contents.index(f"Remember:\n{item.answer}")
        before = words_of(item.messages[:at])
        assert 2 * item.level - 2 <= before <= 2 * item.level
        assert 194 <= before + words_of(item.messages[at + 2 : -1]) <= 200


def test_levels_are_pairs_words_terms_and_occurrences():
    """What the other kinds vary can be counted in the item."""
    (recall,) = probe_items("recall", 1, [7], 1)
    assert len(recall.messages[0].content.splitlines()) == 1 + 7
    (copy,) = probe_items("copy", 1, [16], 1)
    assert len(copy.answer.split()) == 16
    (sequence,) = probe_items("count_sequence", 1, [8], 1)
    assert len(sequence.answer.split()) == 8
    assert graded(sequence, sequence.answer.replace(" ", ", ") + ".")
    (count,) = probe_items("count_occurrences", 1, [5], 1)
    wanted = count.messages[0].content.split()[4]
    assert count.messages[0].content.split("\n")[1].split().count(wanted) == 5
    assert graded(count, f"It occurs {count.answer} times.")


@pytest.mark.parametrize(
    ("kind", "levels"),
    [("recall", [41]), ("copy", [0]), ("needle", [101]), ("riddle", [1]), ("count_sequence", [1])],
)
def test_unknown_kinds_and_levels_are_refused(kind, levels):
    """By name, before anything is generated."""
    with pytest.raises(InvalidRequest, match=kind):
        probe_items(kind, 1, levels, 1)
