"""The training stream: dialogues and tasks mixed, tokenized and packed into fixed sequences.

The stream depends on the corpus, the tokenizer and the seed alone, so every architecture sees
the same sequences in the same order whatever its token budget.
"""

from collections.abc import Iterator, Sequence
from itertools import count, islice
from random import Random
from typing import Final, NamedTuple

import msgspec
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
from model_registry.reference.synthetic import (
    FULL,
    MEDIUM,
    SHORT,
    Reach,
    is_synthetic,
    synthetic_dialogues,
)
from model_registry.reference.tokenizer import token_id

BATCH_TOKENS: Final = 2048
SYSTEM_SHARE: Final = 0.1
SYSTEM_MESSAGE: Final = Message("system", "You are a helpful assistant.")
PACKING_WINDOW: Final = 128
ENCODED_TOGETHER: Final = 512
IGNORED_LABEL: Final = -100


class Document(NamedTuple):
    """Token ids and the labels they are trained on, of equal length."""

    ids: list[int]
    labels: list[int]


class Phase(msgspec.Struct, frozen=True):
    """A stretch of the training stream with a mixture of its own."""

    name: str
    tokens: int | None
    """Length; None of the last phase, which has no end."""
    sequence_tokens: int
    task_share: float
    """Probability that the next document is a task."""
    reach: Reach


#: Recall forms on short tasks alone; among dialogues, whose loss is most of the gradient, it does
#: not. Once formed it is kept by the tasks of the mixture.
PHASES: Final = (
    Phase("short tasks", 400 * BATCH_TOKENS, 64, 1.0, SHORT),
    Phase("medium tasks", 80 * BATCH_TOKENS, 128, 1.0, MEDIUM),
    Phase("long tasks", 120 * BATCH_TOKENS, 512, 1.0, FULL),
    Phase("mixture", None, 512, 0.25, FULL),
)


def mixed_dialogues(shuffled: Iterator[Dialogue], phase: Phase, seed: int) -> Iterator[Dialogue]:
    """Endless stream of the dialogues given, interleaved with tasks."""
    tasks = synthetic_dialogues(f"tasks-{phase.name}-{seed}", phase.reach)
    random = Random(f"mixture-{phase.name}-{seed}")  # noqa: S311 - data, no secret
    while True:
        if random.random() < phase.task_share:
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
    return Document(ids, labels)


def packed(documents: Iterator[Document], sequence_tokens: int) -> Iterator[list[Document]]:
    """Best-fit packing: the documents of one sequence of at most `sequence_tokens` at a time.

    Every sequence starts with a document; only documents longer than a sequence are cut.
    """
    cut = (Document(ids[:sequence_tokens], labels[:sequence_tokens]) for ids, labels in documents)
    waiting = list(islice(cut, PACKING_WINDOW))
    while waiting:
        sequence = [waiting.pop(0)]
        room = sequence_tokens - len(sequence[0].ids)
        while fitting := [d for d in waiting if len(d.ids) <= room]:
            best = max(fitting, key=lambda d: len(d.ids))
            waiting.remove(best)
            sequence.append(best)
            room -= len(best.ids)
        waiting.extend(islice(cut, len(sequence)))
        yield sequence


def sequences(
    documents: Iterator[Document], sequence_tokens: int, pad_id: int
) -> Iterator[NDArray[np.int64]]:
    """Input ids and labels [2, sequence_tokens] of each packed sequence; padding is ignored."""
    for sequence in packed(documents, sequence_tokens):
        row = np.full((2, sequence_tokens), pad_id, dtype=np.int64)
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
    dialogues: Sequence[Dialogue],
    tokenizer: Tokenizer,
    seed: int,
    phases: Sequence[Phase] = PHASES,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Input ids and labels of each batch, both [sequences, tokens] int64, BATCH_TOKENS in all."""
    shuffled = epochs(dialogues, seed)
    pad_id = token_id(tokenizer, END_OF_TEXT)
    for phase in phases:
        documents = tokenized(mixed_dialogues(shuffled, phase, seed), tokenizer)
        rows = sequences(documents, phase.sequence_tokens, pad_id)
        for _ in count() if phase.tokens is None else range(phase.tokens // BATCH_TOKENS):
            stacked = np.stack(list(islice(rows, BATCH_TOKENS // phase.sequence_tokens)))
            block = torch.from_numpy(stacked)
            yield block[:, 0], block[:, 1]
