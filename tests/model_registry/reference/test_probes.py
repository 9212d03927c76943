"""The probes: distances as asked for, answers as stated, the same each time."""

from random import Random

import pytest

from model_registry.reference.probes import (
    DISTANCE_SLACK_TOKENS,
    Probe,
    probes,
    recall_past_pairs,
    recall_past_tasks,
    token_count,
)


@pytest.mark.parametrize("distance", [64, 256])
def test_distance_in_tokens(distance, tokenizer):
    """What lies between the pairs and the question is as long as asked for, within the slack."""
    chat = recall_past_tasks(Random(0), distance, tokenizer)
    between = token_count(chat[1:-2], tokenizer)
    assert distance - DISTANCE_SLACK_TOKENS <= between <= distance
    assert chat[-1].content in chat[0].content.splitlines()


def test_later_pairs_are_counted():
    """The first pair is asked for after the others."""
    chat = recall_past_pairs(Random(0), later=7)
    assert len(chat[0].content.splitlines()) == 1 + 8
    assert chat[0].content.splitlines()[1] == chat[-1].content


def test_probes_are_the_same_each_time(tokenizer):
    """Two measurements ask the same questions."""
    assert probes(tokenizer, 0, questions=2) == probes(tokenizer, 0, questions=2)


def test_rows_are_prompt_and_answer(tokenizer):
    """A prompt ends where the assistant begins; an answer ends with the message."""
    probe = Probe("recall_past_pairs", 0, (recall_past_pairs(Random(0), 0),))
    (prompt,), (answer,) = probe.rows(tokenizer)
    text = tokenizer.decode(prompt, skip_special_tokens=False)
    assert text.endswith("<|im_end|>\n<|im_start|>assistant\n")
    expected = probe.chats[0][-1].content + "<|im_end|>"
    assert tokenizer.decode(answer, skip_special_tokens=False) == expected
