"""How the next token is chosen.

Order, as in transformers and vLLM: logit bias, minimum length, repetition, frequency and presence
penalty, temperature, top-k, top-p, min-p. Log-probabilities are those of the untouched logits.
Every row's result depends on that row alone, so a request samples the same alone or in a batch.
"""

import random
from collections.abc import Collection, Iterable, Sequence
from typing import Final, NamedTuple

import torch
from torch import Tensor

from service.core.chat import Sampling

CANDIDATES: Final = 256
"""Most likely tokens that are looked at before the whole vocabulary is sorted."""

GREEDY_BELOW: Final = 1e-5
"""Temperatures below it are greedy, as in vLLM: dividing by them would overflow."""

# Keeps draw × total below total after rounding, so that a token of probability 0 is never drawn.
_BELOW_ONE: Final = 1.0 - 2.0**-50


class Choice(NamedTuple):
    """A token and, where asked for, its natural log-probability and the likeliest alternatives."""

    token_id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()
    """`(token_id, logprob)`, most likely first."""


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
        self._eos = torch.tensor(
            [token_id for token_id in eos_ids if token_id < vocabulary_tokens], dtype=torch.long
        )
        self._bias = _bias(sampling.logit_bias)
        self._seen: Tensor | None = None
        self._counts: Tensor | None = None
        if sampling.repetition_penalty != 1:
            self._seen = torch.zeros(vocabulary_tokens, dtype=torch.bool)
            self._seen[torch.tensor(prompt_ids, dtype=torch.long)] = True
        if sampling.presence_penalty or sampling.frequency_penalty:
            self._counts = torch.zeros(vocabulary_tokens, dtype=torch.float32)

    @property
    def adjusts(self) -> bool:
        """Whether the next token's logits are changed before it is chosen."""
        return (
            self._bias is not None
            or self._seen is not None
            or self._counts is not None
            or self._too_short
        )

    @property
    def _too_short(self) -> bool:
        return self._sampled < self.sampling.min_tokens

    def adjust(self, logits: Tensor) -> None:
        """Apply bias, minimum length and penalties in place to one row, shape (vocabulary,)."""
        if self._bias is not None:
            logits.index_add_(0, *self._bias)
        if self._too_short:
            logits[self._eos] = -torch.inf
        if self._seen is not None:
            penalty = self.sampling.repetition_penalty
            penalized = torch.where(logits > 0, logits / penalty, logits * penalty)
            torch.where(self._seen, penalized, logits, out=logits)
        if self._counts is not None:
            logits.sub_(self._counts, alpha=self.sampling.frequency_penalty)
            logits.sub_((self._counts > 0).float(), alpha=self.sampling.presence_penalty)

    def draw(self) -> float:
        """The next number of the request's random stream, in [0, 1)."""
        return self._random.random() * _BELOW_ONE

    def observe(self, token_id: int) -> None:
        """Remember a sampled token."""
        self._sampled += 1
        if self._seen is not None:
            self._seen[token_id] = True
        if self._counts is not None:
            self._counts[token_id] += 1


def choose(logits: Tensor, samplers: Sequence[Sampler]) -> list[Choice | None]:
    """One token a row, None for a row whose logits are not finite.

    `logits` is float32, shape (rows, vocabulary), and is overwritten.
    """
    logits = logits.cpu()
    best, best_ids = logits.max(dim=-1)  # NaN and +inf come through a maximum
    finite = torch.isfinite(best).tolist()
    scores = _scores(logits, samplers)
    adjusted = [row for row, sampler in enumerate(samplers) if finite[row] and sampler.adjusts]
    for row in adjusted:
        samplers[row].adjust(logits[row])
        best_ids[row] = logits[row].argmax()
    for filters in (False, True):
        rows = [
            row
            for row, sampler in enumerate(samplers)
            if finite[row] and not sampler.greedy and sampler.filters == filters
        ]
        if rows:
            drawn = _draw_filtered if filters else _draw
            best_ids[rows] = drawn(logits[rows], [samplers[row] for row in rows])
    chosen = best_ids.tolist()
    for sampler, token_id, valid in zip(samplers, chosen, finite, strict=True):
        if valid:
            sampler.observe(token_id)
    return [
        _choice(token_id, scores.get(row), samplers[row].sampling.logprobs) if finite[row] else None
        for row, token_id in enumerate(chosen)
    ]


def score(logits: Tensor, token_ids: Sequence[int], alternatives: int) -> list[Choice]:
    """Given tokens with their log-probabilities; `logits` has one row a token."""
    rows = logits.log_softmax(dim=-1)
    return [
        _choice(token_id, row, alternatives) for token_id, row in zip(token_ids, rows, strict=True)
    ]


def _scores(logits: Tensor, samplers: Sequence[Sampler]) -> dict[int, Tensor]:
    rows = [row for row, sampler in enumerate(samplers) if sampler.sampling.logprobs is not None]
    if not rows:
        return {}
    return dict(zip(rows, logits[rows].log_softmax(dim=-1), strict=True))


def _choice(token_id: int, logprobs: Tensor | None, alternatives: int | None) -> Choice:
    if logprobs is None:
        return Choice(token_id)
    values, ids = logprobs.topk(min(alternatives or 0, logprobs.numel()))
    top = tuple(zip(ids.tolist(), values.tolist(), strict=True))
    return Choice(token_id, logprobs[token_id].item(), top)


def _bias(logit_bias: dict[int, float]) -> tuple[Tensor, Tensor] | None:
    if not logit_bias:
        return None
    values = torch.tensor(list(logit_bias.values()), dtype=torch.float32)
    return torch.tensor(list(logit_bias)), values


def _probabilities(logits: Tensor, samplers: Sequence[Sampler]) -> Tensor:
    # The type is named: while a model loads, torch's default is that model's, in all threads.
    values = [[sampler.sampling.temperature] for sampler in samplers]
    temperatures = torch.tensor(values, dtype=torch.float32)
    # Subtracting the maximum first keeps a tiny temperature from overflowing to infinity.
    return (logits - logits.amax(dim=-1, keepdim=True)).div_(temperatures).softmax(dim=-1)


def _draws(samplers: Sequence[Sampler]) -> Tensor:
    return _column(sampler.draw() for sampler in samplers)


def _column(values: Iterable[float]) -> Tensor:
    return torch.tensor([[value] for value in values], dtype=torch.float64)


def _invert(weights: Tensor, draws: Tensor) -> Tensor:
    """Column in which `draws × total` falls, by inverse of the cumulative sum; shape (rows,)."""
    cumulative = weights.cumsum(dim=-1, dtype=torch.float64)
    return torch.searchsorted(cumulative, draws * cumulative[:, -1:], right=True).squeeze(1)


def _draw(logits: Tensor, samplers: Sequence[Sampler]) -> Tensor:
    return _invert(_probabilities(logits, samplers), _draws(samplers))


def _draw_filtered(logits: Tensor, samplers: Sequence[Sampler]) -> Tensor:
    probabilities = _probabilities(logits, samplers)
    draws = _draws(samplers)
    vocabulary = logits.shape[-1]
    width = min(CANDIDATES, vocabulary)
    chosen, decided = _draw_among(probabilities, samplers, draws, width)
    for row in (~decided).nonzero().flatten().tolist():
        pick = slice(row, row + 1)
        chosen[pick], _ = _draw_among(probabilities[pick], samplers[pick], draws[pick], vocabulary)
    return chosen


def _draw_among(
    probabilities: Tensor, samplers: Sequence[Sampler], draws: Tensor, width: int
) -> tuple[Tensor, Tensor]:
    """Draw among the `width` likeliest; the second result says which rows needed no more.

    Top-p counts the mass that top-k left, as in transformers; tied tokens beyond k are dropped.
    """
    vocabulary = probabilities.shape[-1]
    settings = [sampler.sampling for sampler in samplers]
    top_k = torch.tensor([[min(each.top_k or vocabulary, vocabulary)] for each in settings])
    top_p = _column(_threshold(each.top_p) for each in settings)
    min_p = _column(each.min_p for each in settings)
    values, ids = probabilities.topk(width)
    within_k = torch.arange(width) < top_k
    values = values.double() * within_k
    cumulative = values.cumsum(dim=-1)
    mass = torch.where(top_k < vocabulary, cumulative[:, -1:], 1.0)
    kept = within_k & (cumulative - values < top_p * mass) & (values >= min_p * values[:, :1])
    kept[:, 0] = True
    decided = (top_k <= width).squeeze(1) | (~kept[:, -1] & (top_k == vocabulary).squeeze(1))
    if width == vocabulary:
        decided.fill_(value=True)
    columns = _invert(values * kept, draws)
    return ids.gather(1, columns.unsqueeze(1)).squeeze(1), decided


def _threshold(top_p: float) -> float:
    # Rounding may bring the mass before the last tokens to 1; without top-p none may be lost.
    return top_p if top_p < 1 else 2.0
