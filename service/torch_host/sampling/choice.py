"""Choice: a token and its log-probabilities, chosen from logits or scored against them.

Log-probabilities are those of the unadjusted logits. Every row's result depends on that row alone,
so a request samples the same alone or in a batch.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from service.torch_host.sampling.draw import draw, draw_filtered
from service.torch_host.sampling.largest import largest
from service.torch_host.sampling.sampler import Sampler


class Choice(NamedTuple):
    """A token and, if asked for, its natural log-probability and the likeliest alternatives."""

    token_id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()
    """`(token_id, logprob)`, most likely first."""


def choose(logits: Tensor, samplers: Sequence[Sampler]) -> list[Choice | None]:
    """Choose one token per row; None for a row whose logits are not finite.

    `logits` is float32, shape (rows, vocabulary), and is overwritten.
    """
    logits = logits.cpu()
    rows = logits.numpy()
    best_ids = rows.argmax(axis=-1)  # NaN counts as the largest; torch's own takes 8 times as long
    finite = np.isfinite(rows[np.arange(len(rows)), best_ids]).tolist()
    chosen = best_ids.tolist()
    scored = [row for row, sampler in enumerate(samplers) if sampler.sampling.logprobs is not None]
    logprobs = logits[scored].log_softmax(dim=-1) if scored else None
    for row, sampler in enumerate(samplers):
        if finite[row] and sampler.adjusts:
            sampler.adjust(logits[row])
            chosen[row] = int(rows[row].argmax())
    for filters, draw_rows in ((False, draw), (True, draw_filtered)):
        picked = [
            row
            for row, sampler in enumerate(samplers)
            if finite[row] and not sampler.greedy and sampler.filters == filters
        ]
        if picked:
            their = logits if len(picked) == len(samplers) else logits[picked]
            drawn = draw_rows(their, [samplers[row] for row in picked])
            for row, token_id in zip(picked, drawn.tolist(), strict=True):
                chosen[row] = token_id
    for sampler, token_id, valid in zip(samplers, chosen, finite, strict=True):
        if valid:
            sampler.observe(token_id)
    choices = [Choice(token_id) for token_id in chosen]
    if logprobs is not None:
        wanted = [samplers[row].sampling.logprobs or 0 for row in scored]
        found = _scored([chosen[row] for row in scored], logprobs, wanted)
        for row, choice in zip(scored, found, strict=True):
            choices[row] = choice
    return [choice if valid else None for choice, valid in zip(choices, finite, strict=True)]


def score(logits: Tensor, token_ids: Sequence[int], alternatives: int) -> list[Choice]:
    """Score given tokens; `logits` is float32, one row per token."""
    logprobs = logits.log_softmax(dim=-1).cpu()
    return _scored(token_ids, logprobs, [alternatives] * len(token_ids))


def _scored(
    token_ids: Sequence[int], logprobs: Tensor, alternatives: Sequence[int]
) -> list[Choice]:
    """Choices of given tokens, one per row, each with the requested number of alternatives."""
    if not token_ids:
        return []
    own = logprobs.gather(1, torch.tensor(token_ids, dtype=torch.long).unsqueeze(1))
    values, ids = largest(logprobs, min(max(alternatives), logprobs.shape[-1]))
    return [
        Choice(token_id, logprob, tuple(zip(row_ids[:wanted], row_values[:wanted], strict=True)))
        for token_id, logprob, row_ids, row_values, wanted in zip(
            token_ids,
            own.squeeze(1).tolist(),
            ids.tolist(),
            values.tolist(),
            alternatives,
            strict=True,
        )
    ]
