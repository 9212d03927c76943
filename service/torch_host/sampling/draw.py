"""Random draws from rows of logits, with temperature, min-p, top-k and top-p.

In this order, which is vLLM's: temperature, min-p, top-k, top-p. So top-p is a share of the mass
that min-p and top-k leave. transformers applies min-p last, where it may keep more tokens.
"""

from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
import torch
from torch import Tensor

from service.torch_host.sampling.largest import largest
from service.torch_host.sampling.sampler import BELOW_ONE, Sampler

CANDIDATES: Final = (64, 1024, 8192)
"""Numbers of most likely tokens that are tried in order before all are sorted."""

SHARE_SUM: Final = 128
"""Tokens that share a sum when one is drawn from the whole vocabulary."""


def _column(values: Iterable[float]) -> Tensor:
    return torch.tensor([[value] for value in values], dtype=torch.float64)


def _draws(samplers: Sequence[Sampler]) -> Tensor:
    return _column(sampler.draw() for sampler in samplers)


def _temperatures(samplers: Sequence[Sampler]) -> Tensor:
    # The type is named: while a model loads, torch's default is that model's, in all threads.
    values = [[sampler.sampling.temperature] for sampler in samplers]
    return torch.tensor(values, dtype=torch.float32)


def _probabilities(logits: Tensor, samplers: Sequence[Sampler]) -> Tensor:
    """Softmax at each row's temperature; `logits` is overwritten."""
    if any(sampler.sampling.temperature != 1 for sampler in samplers):
        # Subtracting the maximum first keeps a tiny temperature from overflowing to infinity.
        logits.sub_(logits.amax(dim=-1, keepdim=True)).div_(_temperatures(samplers))
    return logits.softmax(dim=-1)


def _invert(weights: Tensor, draws: Tensor) -> Tensor:
    """Column in which `draws × total` falls, by inverse of the cumulative sum; shape (rows, 1)."""
    cumulative = weights.cumsum(dim=-1, dtype=torch.float64)
    return torch.searchsorted(cumulative, draws * cumulative[:, -1:], right=True)


def draw(logits: Tensor, samplers: Sequence[Sampler]) -> Tensor:
    """Draw from the whole vocabulary: first one of the sums, then a token of that sum."""
    weights, draws = _probabilities(logits, samplers), _draws(samplers)
    columns = weights.shape[-1] // SHARE_SUM
    piled = columns * SHARE_SUM
    piles = weights[:, :piled].reshape(len(weights), SHARE_SUM, columns)
    sums = torch.cat([piles.sum(dim=1), weights[:, piled:]], dim=-1).double()
    cumulative = sums.cumsum(dim=-1)
    targets = draws * cumulative[:, -1:]
    column = torch.searchsorted(cumulative, targets, right=True)
    if not columns:
        return column.squeeze(1)
    own = sums.gather(1, column)
    # The remainder of the first draw is as random as a second draw.
    left = ((targets - cumulative.gather(1, column) + own) / own).clamp_(0, BELOW_ONE)
    place = column.clamp(max=columns - 1).unsqueeze(1).expand(-1, SHARE_SUM, -1)
    level = _invert(piles.gather(2, place).squeeze(2), left)
    single = column - columns + piled
    return torch.where(column < columns, level * columns + column, single).squeeze(1)


def draw_filtered(logits: Tensor, samplers: Sequence[Sampler]) -> Tensor:
    """Draw among as few of the likeliest tokens as decide it."""
    draws, vocabulary = _draws(samplers), logits.shape[-1]
    chosen = torch.empty(len(samplers), dtype=torch.long)
    totals = _totals(logits, samplers)
    rows = torch.arange(len(samplers))
    for width in (*(width for width in CANDIDATES if width < vocabulary), vocabulary):
        values, ids = largest(logits, width)
        drawn, decided = _draw_among(values, samplers, draws, totals, vocabulary)
        chosen[rows] = ids.gather(1, drawn).squeeze(1)
        left = (~decided).nonzero().squeeze(1)
        if not len(left):
            break
        rows, logits, draws, totals = rows[left], logits[left], draws[left], totals[left]
        samplers = [samplers[index] for index in left.tolist()]
    return chosen


def _totals(logits: Tensor, samplers: Sequence[Sampler]) -> Tensor:
    """Sum of all weights, of which top-p is a share; the likeliest token weighs 1; (rows, 1)."""
    totals = torch.ones(len(samplers), 1, dtype=torch.float64)
    rows = [
        row
        for row, sampler in enumerate(samplers)
        if sampler.sampling.top_p < 1 and not _leaves_out(sampler, logits.shape[-1])
    ]
    if rows:
        probabilities = _probabilities(logits[rows], [samplers[row] for row in rows])
        totals[rows] = 1 / probabilities.amax(dim=-1, keepdim=True).double()
    return totals


def _leaves_out(sampler: Sampler, vocabulary: int) -> bool:
    """True where min-p or top-k may exclude tokens, before top-p."""
    top_k, min_p = sampler.sampling.top_k, sampler.sampling.min_p
    return min_p > 0 or (top_k is not None and top_k < vocabulary)


def _draw_among(
    logits: Tensor,
    samplers: Sequence[Sampler],
    draws: Tensor,
    totals: Tensor,
    vocabulary: int,
) -> tuple[Tensor, Tensor]:
    """Draw among the likeliest tokens, in descending order; also return which rows are decided.

    A row is decided once no token beyond the given ones can be drawn or counts for top-p's mass.
    Tied tokens beyond k are dropped.
    """
    width = logits.shape[-1]
    settings = [sampler.sampling for sampler in samplers]
    top_k = torch.tensor([[min(each.top_k or vocabulary, vocabulary)] for each in settings])
    top_p = _column(_threshold(each.top_p) for each in settings)
    min_p = _column(each.min_p for each in settings)
    weights = (logits.double() - logits[:, :1].double()).div_(_temperatures(samplers)).exp_()
    left = (torch.arange(width) < top_k) & (weights >= min_p)
    left[:, 0] = True
    weights *= left
    cumulative = weights.cumsum(dim=-1)
    limited = torch.tensor([[_leaves_out(sampler, vocabulary)] for sampler in samplers])
    mass = torch.where(limited, cumulative[:, -1:], totals)
    kept = left & (cumulative - weights < top_p * mass)
    kept[:, 0] = True
    decided = torch.where(limited, (top_k <= width) | ~left[:, -1:], ~kept[:, -1:]).squeeze(1)
    if width == vocabulary:
        decided.fill_(value=True)
    return _invert(weights * kept, draws), decided


def _threshold(top_p: float) -> float:
    # Rounding may bring the mass before the last tokens to 1; without top-p none may be lost.
    return top_p if top_p < 1 else np.inf
