"""Bodies of POST /v1/score."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from service.api.openai.schema import ModelName, TimeoutSeconds
from service.core.scores.score import ModelScores, Scores, TextScore
from service.serving.scores.service import MODELS_AT_MOST, TEXTS_AT_MOST, TextScored


class ScoreBody(Struct, frozen=True, kw_only=True):
    """Texts for several models."""

    models: Annotated[list[ModelName], Meta(min_length=1, max_length=MODELS_AT_MOST)]
    texts: Annotated[
        list[Annotated[str, Meta(min_length=1)]], Meta(min_length=1, max_length=TEXTS_AT_MOST)
    ]
    window_tokens: Annotated[int, Meta(ge=2)] | None = None
    """Longest window in any model's tokens; as long as the contexts allow if left out."""
    stream: bool | None = None
    """Send each text's score as it is known, the whole at the end."""
    timeout_s: TimeoutSeconds | None = None
    """Time limit of the whole in seconds, or the header `x-request-timeout`."""


class ScoreAnswer(Struct, frozen=True, kw_only=True):
    """All texts by all models, in the order of the request."""

    id: str
    object: Literal["score"] = "score"
    created: int
    conditioning: str
    """What the first token is predicted after and how windows are cut, alike for all models."""
    models: tuple[ModelScores, ...]


class ScoredText(Struct, frozen=True, kw_only=True):
    """One text by one model, as soon as it is known."""

    id: str
    object: Literal["score.text"] = "score.text"
    model: str
    text: int
    """Index in the request."""
    score: TextScore


def score_answer(scores: Scores, created: int) -> ScoreAnswer:
    """Convert the whole to its wire type."""
    return ScoreAnswer(
        id=scores.score_id,
        created=created,
        conditioning=scores.conditioning,
        models=scores.models,
    )


def scored_text(scored: TextScored, score_id: str) -> ScoredText:
    """Convert a text's score to its wire type."""
    return ScoredText(id=score_id, model=scored.model, text=scored.text, score=scored.score)
