"""The training stream: seeded, packed without loss, labelled where something can be learned."""

from itertools import islice

import torch

from model_registry.reference.batches import (
    IGNORED_LABEL,
    SEQUENCE_TOKENS,
    Document,
    batches,
    epochs,
    mixed_dialogues,
    packed,
    synthetic_share,
    tokenized,
)
from model_registry.reference.corpus import Dialogue, Message


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


def test_tasks_become_rarer(dialogues):
    """The share of tasks falls from its first to its later value and stays there."""
    shares = [synthetic_share(documents) for documents in (0, 1000, 10**6, 10**7)]
    assert shares[0] > shares[1] > shares[2] == shares[3]
    assert any("-" in d.id for d in islice(mixed_dialogues(dialogues, 0), 20))


def test_packing_keeps_every_document_once():
    """What goes in comes out, in sequences that are never too long."""
    lengths = [1 + 37 * number % SEQUENCE_TOKENS for number in range(300)]
    documents = [Document([n] * length, [n] * length) for n, length in enumerate(lengths)]
    sequences = list(packed(iter(documents)))
    assert sorted(d.ids[0] for sequence in sequences for d in sequence) == list(range(300))
    assert all(sum(len(d.ids) for d in sequence) <= SEQUENCE_TOKENS for sequence in sequences)


def test_random_words_of_a_task_are_no_label(tokenizer):
    """In a task only the assistant's turns are trained on, in a dialogue all of it."""
    chat = (Message("user", "Repeat:\nriver"), Message("assistant", "river"))
    task, dialogue = tokenized(iter((Dialogue("copy-0", chat), Dialogue("1_0", chat))), tokenizer)
    learned = [label for label in task.labels if label != IGNORED_LABEL]
    answer = "<|im_start|>assistant\nriver<|im_end|>\n<|endoftext|>"
    assert tokenizer.decode(learned, skip_special_tokens=False) == answer
    assert dialogue.labels == dialogue.ids == task.ids
