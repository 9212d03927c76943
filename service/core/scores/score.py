"""Score: log-probability and bits per byte of given texts, by model."""

import math
from collections.abc import Sequence

from msgspec import Struct


class ScoreError(Struct, frozen=True, kw_only=True):
    """Error that kept a model from scoring."""

    code: str
    message: str


class TextScore(Struct, frozen=True, kw_only=True):
    """A text's score by one model, or the sum over texts."""

    log_probability: float
    """In nats, of all tokens of the text."""
    bits_per_byte: float
    """−log2 p(text) / UTF-8 bytes: comparable between tokenizers."""
    bytes: int
    tokens: int
    windows: int
    request_ids: tuple[str, ...]
    """Keys of the windows' records."""


class ScoreDifference(Struct, frozen=True, kw_only=True):
    """Bits per byte of a model minus those of the first model, on the same texts."""

    texts: tuple[float, ...]
    total: float


class ModelScores(Struct, frozen=True, kw_only=True):
    """All texts scored by one model, in the order of the request."""

    model: str
    """As the request named it."""
    start_token: str | None
    """What each window begins with; None for a model that was not reached."""
    window_tokens: int | None = None
    """Longest window in this model's tokens, its start token included."""
    texts: tuple[TextScore, ...]
    """Empty where `error` is set."""
    total: TextScore | None
    difference: ScoreDifference | None = None
    """To the first model; None for the first itself, and where either failed."""
    error: ScoreError | None = None


class Scores(Struct, frozen=True, kw_only=True):
    """Answer to a score request."""

    score_id: str
    conditioning: str
    """What the first token is predicted after, and how windows are cut, alike for all models."""
    models: tuple[ModelScores, ...]


def bits_per_byte(log_probability: float, size_bytes: int) -> float:
    """−log2 p(text) / UTF-8 bytes of the text; *log_probability* is in nats."""
    return -log_probability / math.log(2) / size_bytes or 0.0  # never −0


def summed(scores: Sequence[TextScore]) -> TextScore:
    """Sum of several texts: their bits over their bytes."""
    log_probability = math.fsum(score.log_probability for score in scores)
    size_bytes = sum(score.bytes for score in scores)
    return TextScore(
        log_probability=log_probability,
        bits_per_byte=bits_per_byte(log_probability, size_bytes),
        bytes=size_bytes,
        tokens=sum(score.tokens for score in scores),
        windows=sum(score.windows for score in scores),
        request_ids=tuple(id_ for score in scores for id_ in score.request_ids),
    )


def difference(model: ModelScores, first: ModelScores) -> ScoreDifference | None:
    """Paired difference to the first model; None where either failed."""
    if model.total is None or first.total is None:
        return None
    pairs = zip(model.texts, first.texts, strict=True)
    return ScoreDifference(
        texts=tuple(ours.bits_per_byte - theirs.bits_per_byte for ours, theirs in pairs),
        total=model.total.bits_per_byte - first.total.bits_per_byte,
    )
