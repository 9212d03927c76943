"""Log-probabilities and greedy answers of a causal model, batched over rows of any length."""

import math
from collections.abc import Iterator, Sequence
from typing import Final

import torch
from torch.nn import functional
from transformers import PreTrainedModel

from model_registry.reference.ssd import fast_mamba2

BATCH_TOKENS: Final = 8192


def batched(rows: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """Indices of rows in batches of about BATCH_TOKENS, shortest first, to waste little padding."""
    batch: list[int] = []
    for index in sorted(range(len(rows)), key=lambda i: len(rows[i])):
        if batch and (len(batch) + 1) * len(rows[index]) > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


@torch.inference_mode()
def next_token_logits(
    model: PreTrainedModel, rows: Sequence[Sequence[int]]
) -> Iterator[tuple[int, torch.Tensor]]:
    """Each row's index and logits [len(row) - 1, vocabulary] for its tokens from the second on.

    Rows are padded on the right, which no causal model's earlier positions can see.
    """
    for batch in batched(rows):
        longest = max(len(rows[index]) for index in batch)
        ids = torch.zeros(len(batch), longest, dtype=torch.int64)
        for line, index in enumerate(batch):
            ids[line, : len(rows[index])] = torch.tensor(rows[index])
        with fast_mamba2():
            logits = model(input_ids=ids, use_cache=False).logits
        for line, index in enumerate(batch):
            yield index, logits[line, : len(rows[index]) - 1].float()


def log_probabilities(
    model: PreTrainedModel, rows: Sequence[Sequence[int]], skipped_tokens: int = 1
) -> list[float]:
    """The log-probability in nats of each row, given its first `skipped_tokens` (at least one)."""
    sums = [0.0] * len(rows)
    for index, logits in next_token_logits(model, rows):
        targets = torch.tensor(rows[index][skipped_tokens:])
        loss = functional.cross_entropy(logits[skipped_tokens - 1 :], targets, reduction="sum")
        sums[index] = -float(loss)
    return sums


def bits_per_byte(log_probability_nats: float, size_bytes: int) -> float:
    """Code length of a text under the model: comparable across tokenizers."""
    return -log_probability_nats / math.log(2) / size_bytes


def greedy_accuracy(
    model: PreTrainedModel, prompts: Sequence[list[int]], answers: Sequence[list[int]]
) -> float:
    """Share of prompts whose whole greedy continuation is the answer.

    Greedy decoding gives the answer if and only if each of its tokens is the likeliest after the
    ones before it, so one forward over prompt and answer decides.
    """
    rows = [[*prompt, *answer] for prompt, answer in zip(prompts, answers, strict=True)]
    right = 0
    for index, logits in next_token_logits(model, rows):
        answer = torch.tensor(answers[index])
        right += bool((logits[-len(answer) :].argmax(-1) == answer).all())
    return right / len(rows)
