"""Sampler: one request's sampling parameters, random stream and token counts.

Logits are adjusted in this order, as in vLLM: bias, minimum length, repetition penalty, frequency
and presence penalty.
"""

import random
from collections.abc import Collection, Sequence
from typing import Final

import numpy as np
from torch import Tensor

from service.core.chat.sampling import Sampling
from service.torch_host.sampling.token_counts import TokenCounts

GREEDY_BELOW: Final = 1e-5
"""Temperatures below it are greedy, as in vLLM: dividing by them would overflow."""

# Keeps draw × total below total after rounding, so that a token of probability 0 is never drawn.
BELOW_ONE: Final = 1.0 - 2.0**-50


class Sampler:
    """Sampling state of one request."""

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
        """True if the next token's logits are adjusted."""
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
        """Return the next number of the request's random stream, in [0, 1)."""
        return self._random.random() * BELOW_ONE

    def observe(self, token_id: int) -> None:
        """Count a sampled token."""
        self._sampled += 1
        if self._seen is not None:
            self._seen.add(token_id)
        if self._answer is not None:
            self._answer.add(token_id)
