"""Bodies of the endpoints for votes."""

from typing import Annotated

from msgspec import Meta, Struct

from service.core.votes.vote import Choice, Source, Vote

AnswerId = Annotated[str, Meta(min_length=1, max_length=128)]


class VoteBody(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A preference between two answers of a blind route to one prompt."""

    left: AnswerId
    """`id` of a chat or text completion, or its `x-request-id`."""
    right: AnswerId
    choice: Choice
    user: Annotated[str, Meta(max_length=256)] | None = None
    """A label of the voter."""
    reveal: bool = True
    """Answer with the models, which makes the vote final; false keeps them hidden, and the vote
    can be taken back."""


class VoteAnswer(Struct, frozen=True, kw_only=True):
    """A vote; its models are null until it is revealed."""

    id: str
    object: str = "vote"
    created: int
    source: Source
    route: str | None
    left: str | None
    """Request id of the left answer."""
    right: str | None
    choice: Choice
    revealed: bool
    left_model: str | None
    right_model: str | None
    counts: bool | None
    """False for two answers of one arm, of which nothing is learned; null until revealed."""


class Taken(Struct, frozen=True, kw_only=True):
    """A vote that was taken back."""

    id: str
    deleted: bool = True


def vote_answer(vote: Vote) -> VoteAnswer:
    """Write a vote, without what would unmask an arm before it is revealed."""
    shown = vote.revealed
    return VoteAnswer(
        id=vote.vote_id,
        created=vote.at_ns // 10**9,
        source=vote.source,
        route=vote.route,
        left=vote.left_response,
        right=vote.right_response,
        choice=vote.choice,
        revealed=shown,
        left_model=vote.left_model if shown else None,
        right_model=vote.right_model if shown else None,
        counts=(vote.not_counted is None) if shown else None,
    )
