"""The generated tasks: seeded, and every answer follows from its chat."""

from itertools import islice
from random import Random

import pytest

from model_registry.reference.synthetic import (
    KEYS,
    SHORT,
    copy,
    count_occurrences,
    count_sequence,
    is_synthetic,
    random_pairs,
    recall,
    synthetic_dialogues,
)


def test_same_seed_gives_the_same_tasks():
    """Two streams of one seed agree, two of different seeds do not."""
    first, again, other = (list(islice(synthetic_dialogues(seed), 50)) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_all_tasks_occur_and_are_marked():
    """A stretch of the stream has every task, each known for a task by its id."""
    tasks = list(islice(synthetic_dialogues(0), 200))
    names = {task.id.rpartition("-")[0] for task in tasks}
    assert names == {"recall", "copy", "count_sequence", "count_occurrences"}
    assert all(is_synthetic(task) for task in tasks)


@pytest.mark.parametrize("seed", range(20))
def test_recall_answers_what_was_stated(seed):
    """Each answered pair is a line of the first message, each key asked for is answered."""
    chat = recall(Random(seed))
    stated = set(chat[0].content.splitlines()[1:])
    asked = [i for i, message in enumerate(chat) if message.content.startswith("What goes with")]
    for index in asked:
        keys = chat[index].content.removeprefix("What goes with ").removesuffix("?").split(", ")
        answers = chat[index + 1].content.splitlines()
        assert [answer.split()[0] for answer in answers] == keys
        assert stated.issuperset(answers)


def test_keys_of_a_chat_are_distinct():
    """No key has two values, so that every question has one answer."""
    pairs = random_pairs(Random(0), 40)
    assert len(dict(pairs)) == len(pairs)


@pytest.mark.parametrize("seed", range(20))
def test_a_reach_bounds_recall(seed):
    """A chat has at most the pairs of its reach, and no other tasks where none are allowed."""
    chat = recall(Random(seed), SHORT)
    assert len(chat[0].content.splitlines()) <= 1 + SHORT.pairs
    assert len(chat) == 6


@pytest.mark.parametrize("seed", range(20))
def test_copied_words_are_distinct_and_start_with_no_key(seed):
    """Each word has one successor, and what starts the line is never taken for a pair."""
    question, answer = copy(Random(seed))
    words = answer.content.split()
    assert question.content == f"Repeat:\n{answer.content}"
    assert len(set(words)) == len(words)
    assert words[0] not in KEYS


@pytest.mark.parametrize("seed", range(20))
def test_counts_are_right(seed):
    """The number of occurrences, and the terms between two numbers, are those of the question."""
    question, answer = count_occurrences(Random(seed))
    head, words = question.content.split("\n")
    assert words.split().count(head.split()[4]) == int(answer.content)
    question, answer = count_sequence(Random(seed))
    first, last = (int(word) for word in question.content.rstrip(".").split()[2::2])
    assert answer.content.split() == [str(term) for term in range(first, last + 1)]
