"""The training stream: seeded, packed without loss, labelled where something can be learned."""

from itertools import islice

import torch

from model_registry.reference.batches import (
    BATCH_TOKENS,
    IGNORED_LABEL,
    PHASES,
    Document,
    Phase,
    batches,
    epochs,
    mixed_dialogues,
    packed,
    tokenized,
)
from model_registry.reference.corpus import Dialogue, Message
from model_registry.reference.synthetic import FULL, SHORT, is_synthetic


def test_stream_depends_on_the_seed_alone(dialogues, tokenizer):
    """Two streams of one seed are equal, so that every architecture sees the same tokens."""
    first, again, other = (
        [ids for ids, _ in islice(batches(dialogues, tokenizer, seed), 3)] for seed in (5, 5, 6)
    )
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])


def test_an_epoch_has_every_dialogue_once(dialogues):
    """Each epoch is a new order of the same dialogues."""
    count = len(dialogues)
    ids = [dialogue.id for dialogue in islice(epochs(dialogues, 0), 2 * count)]
    assert sorted(ids[:count]) == sorted(ids[count:]) == sorted(d.id for d in dialogues)
    assert ids[:count] != ids[count:]


def test_recall_forms_before_dialogues_come():
    """The first phases are tasks alone that grow longer; the last is a mixture without end."""
    *tasks, mixture = PHASES
    assert {phase.task_share for phase in tasks} == {1.0}
    assert [phase.sequence_tokens for phase in PHASES] == sorted(p.sequence_tokens for p in PHASES)
    assert mixture.tokens is None
    assert 0 < mixture.task_share < 1


def test_phases_follow_each_other(dialogues, tokenizer):
    """Each phase gives its tokens in sequences of its length, from documents of its mixture."""
    first = Phase("first", 2 * BATCH_TOKENS, 64, 1.0, SHORT)
    last = Phase("last", None, 128, 0.0, FULL)
    blocks = [ids for ids, _ in islice(batches(dialogues, tokenizer, 0, (first, last)), 3)]
    assert [tuple(block.shape) for block in blocks] == [(32, 64), (32, 64), (16, 128)]
    texts = [tokenizer.decode(block.flatten().tolist()) for block in blocks]
    assert ["I need a table" in text for text in texts] == [False, False, True]


def test_a_mixture_has_both(dialogues):
    """Tasks and dialogues are drawn by the phase's share."""
    phase = Phase("both", None, 512, 0.5, FULL)
    drawn = list(islice(mixed_dialogues(epochs(dialogues, 0), phase, 0), 200))
    assert 60 < sum(is_synthetic(dialogue) for dialogue in drawn) < 140


def test_packing_keeps_every_document_once():
    """What goes in comes out, in sequences that are never too long."""
    lengths = [1 + 37 * number % 512 for number in range(300)]
    documents = [Document([n] * length, [n] * length) for n, length in enumerate(lengths)]
    sequences = list(packed(iter(documents), 512))
    assert sorted(d.ids[0] for sequence in sequences for d in sequence) == list(range(300))
    assert all(sum(len(d.ids) for d in sequence) <= 512 for sequence in sequences)


def test_random_words_of_a_task_are_no_label(tokenizer):
    """In a task only the assistant's turns are trained on, in a dialogue all of it."""
    chat = (Message("user", "Repeat:\nriver"), Message("assistant", "river"))
    task, dialogue = tokenized(iter((Dialogue("copy-0", chat), Dialogue("1_0", chat))), tokenizer)
    learned = [label for label in task.labels if label != IGNORED_LABEL]
    answer = "<|im_start|>assistant\nriver<|im_end|>\n<|endoftext|>"
    assert tokenizer.decode(learned, skip_special_tokens=False) == answer
    assert dialogue.labels == dialogue.ids == task.ids
