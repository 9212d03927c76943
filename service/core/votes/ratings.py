"""Ratings of models from votes: strengths with intervals, and who is told apart from whom."""

from collections import Counter
from collections.abc import Sequence

from msgspec import Struct

from service.core.votes.vote import Vote

RESAMPLES = 400
METHOD = (
    "Bradley-Terry strengths (natural logarithm of the odds, mean 0) with 95 % percentile "
    f"intervals of {RESAMPLES} bootstrap resamples of the votes; a tie and `both_bad` are half a "
    "win for each"
)


class RatedModel(Struct, frozen=True, kw_only=True):
    """A model and what votes say of it."""

    model: str
    strength: float
    low: float | None
    """None with too few votes for an interval."""
    high: float | None
    votes: int
    wins: int
    losses: int
    ties: int
    both_bad: int


class RatedPair(Struct, frozen=True, kw_only=True):
    """Two models, the stronger first, and whether their votes tell them apart."""

    stronger: str
    weaker: str
    wins: int
    """Votes between the two that preferred the stronger."""
    losses: int
    ties: int
    both_bad: int
    ranked: bool
    """False: the intervals overlap or are unknown; these votes cannot rank the two."""


class Ratings(Struct, frozen=True, kw_only=True):
    """Ratings of all models that were voted on."""

    route: str | None
    """The blind route, or null for all votes."""
    votes: int
    """Votes that count."""
    not_counted: dict[str, int]
    """Votes that do not, by reason."""
    models: tuple[RatedModel, ...]
    """The strongest first."""
    pairs: tuple[RatedPair, ...]
    wins: dict[str, dict[str, float]]
    """Wins of a model (row) against another; ties and `both_bad` are half a win."""
    method: str
    seed: int


def rate(votes: Sequence[Vote], *, route: str | None, seed: int) -> Ratings:
    """Rate the models of votes. Equal votes and seeds give equal numbers."""
    counted = [vote for vote in votes if vote.not_counted is None]
    reasons = Counter(vote.not_counted for vote in votes if vote.not_counted is not None)
    outcomes = Counter(outcome for vote in counted for outcome in _outcomes(vote))
    # NumPy takes a tenth of a second to import and is needed for nothing else here.
    from service.core.statistics.bradley_terry import Vote as Preference
    from service.core.statistics.bradley_terry import strengths

    fitted = strengths(
        [
            Preference(left=vote.left_model, right=vote.right_model, choice=vote.choice)
            for vote in counted
        ],
        seed=seed,
        resamples=RESAMPLES,
    )
    names = [each.model for each in fitted]
    models = tuple(
        RatedModel(
            model=each.model,
            strength=each.strength,
            low=each.low,
            high=each.high,
            votes=each.votes,
            **{
                kind: sum(outcomes[each.model, other, kind] for other in names)
                for kind in ("wins", "losses", "ties", "both_bad")
            },
        )
        for each in fitted
    )
    pairs = [
        _pair(stronger, weaker, outcomes)
        for place, stronger in enumerate(models)
        for weaker in models[place + 1 :]
    ]
    return Ratings(
        route=route,
        votes=len(counted),
        not_counted=dict(reasons),
        models=models,
        pairs=tuple(pairs),
        wins={
            one: {
                other: outcomes[one, other, "wins"]
                + (outcomes[one, other, "ties"] + outcomes[one, other, "both_bad"]) / 2
                for other in names
                if other != one
            }
            for one in names
        },
        method=METHOD,
        seed=seed,
    )


def _outcomes(vote: Vote) -> tuple[tuple[str, str, str], tuple[str, str, str]]:
    """A vote as seen from either side: model, other model, what it was for the first."""
    kinds = {"left": ("wins", "losses"), "right": ("losses", "wins"), "tie": ("ties", "ties")}
    left, right = kinds.get(vote.choice, ("both_bad", "both_bad"))
    return (
        (vote.left_model, vote.right_model, left),
        (vote.right_model, vote.left_model, right),
    )


def _pair(
    stronger: RatedModel, weaker: RatedModel, outcomes: Counter[tuple[str, str, str]]
) -> RatedPair:
    counts = {
        kind: outcomes[stronger.model, weaker.model, kind]
        for kind in ("wins", "losses", "ties", "both_bad")
    }
    apart = stronger.low is not None and weaker.high is not None and stronger.low > weaker.high
    return RatedPair(stronger=stronger.model, weaker=weaker.model, ranked=apart, **counts)
