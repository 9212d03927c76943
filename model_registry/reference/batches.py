"""The training stream: dialogues and tasks mixed, tokenized and packed into fixed sequences.

The stream depends on the corpus, the tokenizer and the seed alone, so every architecture sees
the same sequences in the same order whatever its token budget.
"""

from collections.abc import Iterator, Sequence
from itertools import count, islice
from random import Random
from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

from model_registry.reference.corpus import (
    END_OF_TEXT,
    MESSAGE_START,
    Dialogue,
    Message,
    render_chat,
)
from model_registry.reference.synthetic import is_synthetic, synthetic_dialogues
from model_registry.reference.tokenizer import token_id

SEQUENCE_TOKENS: Final = 512
SEQUENCES_PER_BATCH: Final = 4
BATCH_TOKENS: Final = SEQUENCE_TOKENS * SEQUENCES_PER_BATCH
SYNTHETIC_SHARE_FIRST: Final = 0.8
SYNTHETIC_SHARE_LATER: Final = 0.45
CURRICULUM_DOCUMENTS: Final = 4096
SYSTEM_SHARE: Final = 0.1
SYSTEM_MESSAGE: Final = Message("system", "You are a helpful assistant.")
PACKING_WINDOW: Final = 128
ENCODED_TOGETHER: Final = 512
IGNORED_LABEL: Final = -100


class Document(NamedTuple):
    """Token ids and the labels they are trained on, of equal length."""

    ids: list[int]
    labels: list[int]


def synthetic_share(documents: int) -> float:
    """Probability that the next document is a task: high at first, so that recall forms early."""
    progress = min(1.0, documents / CURRICULUM_DOCUMENTS)
    return SYNTHETIC_SHARE_FIRST + progress * (SYNTHETIC_SHARE_LATER - SYNTHETIC_SHARE_FIRST)


def mixed_dialogues(dialogues: Sequence[Dialogue], seed: int) -> Iterator[Dialogue]:
    """Endless stream of dialogues, reshuffled each epoch, interleaved with tasks."""
    tasks = synthetic_dialogues(seed)
    shuffled = epochs(dialogues, seed)
    random = Random(f"mixture-{seed}")  # noqa: S311 - data, no secret
    for index in count():
        if random.random() < synthetic_share(index):
            yield next(tasks)
            continue
        dialogue = next(shuffled)
        if random.random() < SYSTEM_SHARE:
            yield Dialogue(dialogue.id, (SYSTEM_MESSAGE, *dialogue.messages))
        else:
            yield dialogue


def epochs(dialogues: Sequence[Dialogue], seed: int) -> Iterator[Dialogue]:
    """Endless stream of dialogues, reshuffled each epoch."""
    for epoch in count():
        random = Random(f"epoch-{seed}-{epoch}")  # noqa: S311 - data, no secret
        yield from random.sample(dialogues, len(dialogues))


def document_text(dialogue: Dialogue) -> str:
    """A training document: the chat in ChatML, then the end of text."""
    return render_chat(dialogue.messages) + END_OF_TEXT


def document(ids: list[int], *, synthetic: bool, start_id: int, user_id: int) -> Document:
    """The labels of a document: all of its tokens, but of a task the assistant's turns alone.

    What the user says in a task is random words, from which nothing can be learned.
    """
    labels = list(ids)
    if synthetic:
        learned = True
        for index, token in enumerate(ids):
            if token == start_id:
                learned = ids[index + 1] != user_id
            labels[index] = token if learned else IGNORED_LABEL
    return Document(ids[:SEQUENCE_TOKENS], labels[:SEQUENCE_TOKENS])


def packed(documents: Iterator[Document]) -> Iterator[list[Document]]:
    """Best-fit packing: the documents of one sequence of at most SEQUENCE_TOKENS at a time.

    Every sequence starts with a document; only documents longer than a sequence are cut.
    """
    waiting = list(islice(documents, PACKING_WINDOW))
    while waiting:
        sequence = [waiting.pop(0)]
        room = SEQUENCE_TOKENS - len(sequence[0].ids)
        while fitting := [d for d in waiting if len(d.ids) <= room]:
            best = max(fitting, key=lambda d: len(d.ids))
            waiting.remove(best)
            sequence.append(best)
            room -= len(best.ids)
        waiting.extend(islice(documents, len(sequence)))
        yield sequence


def sequences(documents: Iterator[Document], pad_id: int) -> Iterator[NDArray[np.int64]]:
    """Input ids and labels [2, SEQUENCE_TOKENS] of each packed sequence; padding is ignored."""
    for sequence in packed(documents):
        row = np.full((2, SEQUENCE_TOKENS), pad_id, dtype=np.int64)
        row[1] = IGNORED_LABEL
        end = 0
        for ids, labels in sequence:
            start, end = end, end + len(ids)
            row[:, start:end] = ids, labels
        yield row


def tokenized(dialogues: Iterator[Dialogue], tokenizer: Tokenizer) -> Iterator[Document]:
    """The documents of dialogues; encoded in blocks, which is many times faster than singly."""
    start_id = token_id(tokenizer, MESSAGE_START)
    (user_id,) = tokenizer.encode("user").ids
    while block := list(islice(dialogues, ENCODED_TOGETHER)):
        encodings = tokenizer.encode_batch_fast([document_text(dialogue) for dialogue in block])
        for dialogue, encoding in zip(block, encodings, strict=True):
            yield document(
                encoding.ids, synthetic=is_synthetic(dialogue), start_id=start_id, user_id=user_id
            )


def batches(
    dialogues: Sequence[Dialogue], tokenizer: Tokenizer, seed: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Endless input ids and labels, both [SEQUENCES_PER_BATCH, SEQUENCE_TOKENS] int64."""
    documents = tokenized(mixed_dialogues(dialogues, seed), tokenizer)
    rows = sequences(documents, token_id(tokenizer, END_OF_TEXT))
    while True:
        block = torch.from_numpy(np.stack(list(islice(rows, SEQUENCES_PER_BATCH))))
        yield block[:, 0], block[:, 1]
