"""Strengths of models from blind votes, by the model of Bradley and Terry."""

from collections.abc import Sequence
from typing import Final, Literal

import numpy as np
from msgspec import Struct

Choice = Literal["left", "right", "tie", "both_bad"]

#: Counted as wins in both directions between any two models: keeps a strength finite where one
#: model won every vote, and pulls it towards the others by as little as a hundredth of a vote.
PRIOR: Final = 0.01
CONFIDENCE: Final = 0.95


class Vote(Struct, frozen=True, kw_only=True):
    """One preference between two answers."""

    left: str
    right: str
    choice: Choice
    """`tie` and `both_bad` count as half a win for each: neither answer was preferred."""


class Strength(Struct, frozen=True, kw_only=True):
    """Strength of a model: the natural logarithm of its odds against an average one."""

    model: str
    strength: float
    low: float | None
    """None if the model has fewer than six votes."""
    high: float | None
    votes: int


#: Fewer votes give a strength without an interval.
MINIMUM_VOTES: Final = 6


def strengths(votes: Sequence[Vote], *, seed: int = 0, resamples: int = 1000) -> list[Strength]:
    """Estimate strengths, the greatest first; intervals are percentiles of resampled votes.

    The chance that i is preferred to j is 1 / (1 + exp(s_j - s_i)); strengths sum to 0. Models that
    no chain of votes connects are held together by the prior alone: read their intervals.

    Raises:
        ValueError: if a vote is of a model against itself.
    """
    if own := next((vote for vote in votes if vote.left == vote.right), None):
        raise ValueError(f"a vote must be between two models, not {own.left!r} and itself")
    models = sorted({model for vote in votes for model in (vote.left, vote.right)})
    if not models:
        return []
    index = {model: place for place, model in enumerate(models)}
    wins = np.array([_wins(vote, index) for vote in votes])
    fitted = _fit(wins, len(models))
    rng = np.random.default_rng(seed)
    resampled = np.array(
        [
            _fit(wins[rng.integers(len(votes), size=len(votes))], len(models))
            for _ in range(resamples)
        ]
    )
    tail = (1 - CONFIDENCE) / 2
    lows, highs = np.quantile(resampled, [tail, 1 - tail], axis=0)
    counts = {model: sum(model in (vote.left, vote.right) for vote in votes) for model in models}
    found = [
        Strength(
            model=model,
            strength=float(fitted[place]),
            low=float(lows[place]) if counts[model] >= MINIMUM_VOTES else None,
            high=float(highs[place]) if counts[model] >= MINIMUM_VOTES else None,
            votes=counts[model],
        )
        for model, place in index.items()
    ]
    return sorted(found, key=lambda entry: (-entry.strength, entry.model))


def _wins(vote: Vote, index: dict[str, int]) -> tuple[float, float, float]:
    """Return indices of the two models, and how much of a win the left one had."""
    share = {"left": 1.0, "right": 0.0}.get(vote.choice, 0.5)
    return (index[vote.left], index[vote.right], share)


def _fit(wins: np.ndarray, models: int) -> np.ndarray:
    import choix

    matrix = np.full((models, models), PRIOR)
    np.fill_diagonal(matrix, 0.0)
    left, right = wins[:, 0].astype(int), wins[:, 1].astype(int)
    np.add.at(matrix, (left, right), wins[:, 2])
    np.add.at(matrix, (right, left), 1 - wins[:, 2])
    return np.asarray(choix.ilsr_pairwise_dense(matrix, alpha=0.0, max_iter=1000))
