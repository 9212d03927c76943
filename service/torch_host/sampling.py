"""How the next token is chosen.

Order, as in transformers and vLLM: logit bias, minimum length, repetition, frequency and presence
penalty, temperature, top-k, top-p, min-p. Log-probabilities are those of the untouched logits.
Every row's result depends on that row alone, so a request samples the same alone or in a batch.
"""

import random
from collections.abc import Collection, Iterable, Sequence
from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from service.core.chat import Sampling

CANDIDATES: Final = (64, 1024, 8192)
"""How many of the likeliest tokens are looked at, one after the other, before all are sorted."""

GREEDY_BELOW: Final = 1e-5
"""Temperatures below it are greedy, as in vLLM: dividing by them would overflow."""

# Keeps draw × total below total after rounding, so that a token of probability 0 is never drawn.
_BELOW_ONE: Final = 1.0 - 2.0**-50
# How many tokens share a maximum when the likeliest are looked for, and a sum when one is drawn:
# fewer make the first pass over the vocabulary longer, more the second over what it left.
_MAXIMUM_OF: Final = 8
_SUM_OF: Final = 128


class Choice(NamedTuple):
    """A token and, where asked for, its natural log-probability and the likeliest alternatives."""

    token_id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()
    """`(token_id, logprob)`, most likely first."""


class TokenCounts:
    """Tokens that came, and how often: arrays that grow, so that a penalty costs what came."""

    def __init__(self, token_ids: Iterable[int] = ()) -> None:
        self._places: dict[int, int] = {}
        for token_id in token_ids:
            self._places.setdefault(token_id, len(self._places))
        size = len(self._places)
        self._ids = np.fromiter(self._places, dtype=np.int64, count=size)
        self._counts = np.ones(size, dtype=np.float32)

    @property
    def ids(self) -> NDArray[np.int64]:
        """Each token once."""
        return self._ids[: len(self._places)]

    @property
    def counts(self) -> NDArray[np.float32]:
        """How often each came."""
        return self._counts[: len(self._places)]

    def add(self, token_id: int) -> None:
        """Count a token."""
        place = self._places.setdefault(token_id, len(self._places))
        if place == len(self._ids):
            room = max(64, place)
            self._ids = np.concatenate([self._ids, np.zeros(room, dtype=np.int64)])
            self._counts = np.concatenate([self._counts, np.zeros(room, dtype=np.float32)])
        self._ids[place] = token_id
        self._counts[place] += 1


class Sampler:
    """What one request's sampling remembers: its random stream and the tokens it has seen."""

    def __init__(
        self,
        sampling: Sampling,
        *,
        prompt_ids: Sequence[int],
        eos_ids: Collection[int],
        vocabulary_tokens: int,
    ) -> None:
        self.sampling = sampling
        self.greedy = sampling.temperature < GREEDY_BELOW
        self.filters = (
            sampling.top_k is not None or sampling.top_p < 1 or sampling.min_p > 0
        ) and not self.greedy
        self._random = random.Random(sampling.seed)  # noqa: S311  no secret
        self._sampled = 0
        self._eos = np.array(
            [token_id for token_id in eos_ids if token_id < vocabulary_tokens], dtype=np.int64
        )
        self._biased = np.array(list(sampling.logit_bias), dtype=np.int64)
        self._bias = np.array(list(sampling.logit_bias.values()), dtype=np.float32)
        self._seen = TokenCounts(prompt_ids) if sampling.repetition_penalty != 1 else None
        penalized = sampling.presence_penalty or sampling.frequency_penalty
        self._answer = TokenCounts() if penalized else None
        self._adjusts = bool(sampling.logit_bias) or self._seen is not None or bool(penalized)

    @property
    def adjusts(self) -> bool:
        """Whether the next token's logits are changed before it is chosen."""
        return self._adjusts or self._too_short

    @property
    def _too_short(self) -> bool:
        return self._sampled < self.sampling.min_tokens

    def adjust(self, logits: Tensor) -> None:
        """Apply bias, minimum length and penalties in place to one row, shape (vocabulary,)."""
        row = logits.numpy()
        row[self._biased] += self._bias
        if self._too_short:
            row[self._eos] = -np.inf
        if self._seen is not None:
            penalty = self.sampling.repetition_penalty
            values = row[self._seen.ids]
            row[self._seen.ids] = np.where(values > 0, values / penalty, values * penalty)
        if self._answer is not None:
            row[self._answer.ids] -= self.sampling.frequency_penalty * self._answer.counts
            row[self._answer.ids] -= self.sampling.presence_penalty

    def draw(self) -> float:
        """The next number of the request's random stream, in [0, 1)."""
        return self._random.random() * _BELOW_ONE

    def observe(self, token_id: int) -> None:
        """Remember a sampled token."""
        self._sampled += 1
        if self._seen is not None:
            self._seen.add(token_id)
        if self._answer is not None:
            self._answer.add(token_id)


def choose(logits: Tensor, samplers: Sequence[Sampler]) -> list[Choice | None]:
    """One token a row, None for a row whose logits are not finite.

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
    for filters, draw in ((False, _draw), (True, _draw_filtered)):
        picked = [
            row
            for row, sampler in enumerate(samplers)
            if finite[row] and not sampler.greedy and sampler.filters == filters
        ]
        if picked:
            their = logits if len(picked) == len(samplers) else logits[picked]
            drawn = draw(their, [samplers[row] for row in picked])
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
    """Given tokens with their log-probabilities; `logits` has one row a token."""
    logprobs = logits.log_softmax(dim=-1).cpu()
    return _scored(token_ids, logprobs, [alternatives] * len(token_ids))


def _scored(
    token_ids: Sequence[int], logprobs: Tensor, alternatives: Sequence[int]
) -> list[Choice]:
    """Tokens, one a row, with their log-probabilities and as many alternatives as wanted."""
    if not token_ids:
        return []
    own = logprobs.gather(1, torch.tensor(token_ids, dtype=torch.long).unsqueeze(1))
    values, ids = _largest(logprobs, min(max(alternatives), logprobs.shape[-1]))
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


def _largest(rows: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """`rows.topk(count)`, two to five times as fast where the rows are long.

    Tokens that are `columns` apart share a maximum. The tokens with the largest maxima are
    candidates: there are `count` that are at least as large as any token beside them.
    """
    columns = rows.shape[-1] // _MAXIMUM_OF
    if not 0 < count <= columns // 4:
        return rows.topk(count)
    piled = columns * _MAXIMUM_OF
    piles = rows[:, :piled].reshape(len(rows), _MAXIMUM_OF, columns)
    largest = piles.amax(dim=1).topk(count, sorted=False).indices
    candidates = piles.gather(2, largest.unsqueeze(1).expand(-1, _MAXIMUM_OF, -1)).flatten(1)
    ids = (torch.arange(_MAXIMUM_OF).unsqueeze(1) * columns + largest.unsqueeze(1)).flatten(1)
    if piled < rows.shape[-1]:
        rest = torch.arange(piled, rows.shape[-1]).expand(len(rows), -1)
        candidates = torch.cat([candidates, rows[:, piled:]], dim=-1)
        ids = torch.cat([ids, rest], dim=-1)
    values, places = candidates.topk(count)
    return values, ids.gather(1, places)


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


def _draw(logits: Tensor, samplers: Sequence[Sampler]) -> Tensor:
    """Draw from the whole vocabulary: first one of the sums, then a token of that sum."""
    weights, draws = _probabilities(logits, samplers), _draws(samplers)
    columns = weights.shape[-1] // _SUM_OF
    piled = columns * _SUM_OF
    piles = weights[:, :piled].reshape(len(weights), _SUM_OF, columns)
    sums = torch.cat([piles.sum(dim=1), weights[:, piled:]], dim=-1).double()
    cumulative = sums.cumsum(dim=-1)
    targets = draws * cumulative[:, -1:]
    column = torch.searchsorted(cumulative, targets, right=True)
    if not columns:
        return column.squeeze(1)
    own = sums.gather(1, column)
    # What the first draw left over is as random as a second one.
    left = ((targets - cumulative.gather(1, column) + own) / own).clamp_(0, _BELOW_ONE)
    place = column.clamp(max=columns - 1).unsqueeze(1).expand(-1, _SUM_OF, -1)
    level = _invert(piles.gather(2, place).squeeze(2), left)
    single = column - columns + piled
    return torch.where(column < columns, level * columns + column, single).squeeze(1)


def _draw_filtered(logits: Tensor, samplers: Sequence[Sampler]) -> Tensor:
    """Draw among as few of the likeliest tokens as decide it."""
    draws, vocabulary = _draws(samplers), logits.shape[-1]
    chosen = torch.empty(len(samplers), dtype=torch.long)
    totals = _totals(logits, samplers)
    rows = torch.arange(len(samplers))
    for width in (*(width for width in CANDIDATES if width < vocabulary), vocabulary):
        values, ids = _largest(logits, width)
        drawn, decided = _draw_among(values, samplers, draws, totals, vocabulary)
        chosen[rows] = ids.gather(1, drawn).squeeze(1)
        left = (~decided).nonzero().squeeze(1)
        if not len(left):
            break
        rows, logits, draws, totals = rows[left], logits[left], draws[left], totals[left]
        samplers = [samplers[index] for index in left.tolist()]
    return chosen


def _totals(logits: Tensor, samplers: Sequence[Sampler]) -> Tensor:
    """Sum of all weights where top-p is a share of it; the likeliest token weighs 1; (rows, 1)."""
    totals = torch.ones(len(samplers), 1, dtype=torch.float64)
    rows = [
        row
        for row, sampler in enumerate(samplers)
        if sampler.sampling.top_p < 1 and not _takes_some(sampler, logits.shape[-1])
    ]
    if rows:
        probabilities = _probabilities(logits[rows], [samplers[row] for row in rows])
        totals[rows] = 1 / probabilities.amax(dim=-1, keepdim=True).double()
    return totals


def _takes_some(sampler: Sampler, vocabulary: int) -> bool:
    """Whether top-k leaves tokens out."""
    return sampler.sampling.top_k is not None and sampler.sampling.top_k < vocabulary


def _draw_among(
    logits: Tensor,
    samplers: Sequence[Sampler],
    draws: Tensor,
    totals: Tensor,
    vocabulary: int,
) -> tuple[Tensor, Tensor]:
    """Draw among the likeliest tokens, which come in order; also says which rows need no more.

    Top-p counts the mass that top-k left, as in transformers; tied tokens beyond k are dropped.
    """
    width = logits.shape[-1]
    settings = [sampler.sampling for sampler in samplers]
    top_k = torch.tensor([[min(each.top_k or vocabulary, vocabulary)] for each in settings])
    top_p = _column(_threshold(each.top_p) for each in settings)
    min_p = _column(each.min_p for each in settings)
    weights = (logits.double() - logits[:, :1].double()).div_(_temperatures(samplers)).exp_()
    within_k = torch.arange(width) < top_k
    weights *= within_k
    cumulative = weights.cumsum(dim=-1)
    limited = torch.tensor([[_takes_some(sampler, vocabulary)] for sampler in samplers])
    mass = torch.where(limited, cumulative[:, -1:], totals)
    kept = within_k & (cumulative - weights < top_p * mass) & (weights >= min_p)
    kept[:, 0] = True
    decided = torch.where(limited, top_k <= width, ~kept[:, -1:]).squeeze(1)
    if width == vocabulary:
        decided.fill_(value=True)
    return _invert(weights * kept, draws), decided


def _threshold(top_p: float) -> float:
    # Rounding may bring the mass before the last tokens to 1; without top-p none may be lost.
    return top_p if top_p < 1 else np.inf
