"""A vote: which of two answers a person preferred."""

from collections.abc import Collection, Sequence
from typing import Literal, Protocol

from msgspec import Struct

Choice = Literal["left", "right", "tie", "both_bad"]
Source = Literal["api", "open-webui"]


class Vote(Struct, frozen=True, kw_only=True):
    """A person's preference between two answers to one prompt."""

    vote_id: str
    key: str
    """What was voted on: there is one vote for each key."""
    at_ns: int
    """Wall clock, nanoseconds since the epoch."""
    source: Source
    route: str | None
    """Blind route that gave both answers; None where the person knew the models."""
    left_model: str
    """`model` or `model:variant` that gave the left answer."""
    right_model: str
    left_response: str | None = None
    """Request id of the left answer; None if the source does not tell."""
    right_response: str | None = None
    choice: Choice
    voter: str | None = None
    """A label that the client gave."""
    not_counted: str | None = None
    """Why ratings leave it out."""
    revealed: bool = False
    """The voter knows which models answered, so that the vote can no longer be taken back."""


def pair_key(left_response: str, right_response: str) -> str:
    """The key of a vote between two answers, whichever side they were shown on."""
    return "|".join(sorted((left_response, right_response)))


class VoteStore(Protocol):
    """Storage of votes. Methods block: call them from a thread; all raise StoreUnavailable."""

    def add(self, vote: Vote) -> bool:
        """Insert a vote; False if there is one with its key already."""

    def put(self, votes: Sequence[Vote]) -> tuple[int, int]:
        """Insert votes, or replace those with the same keys whose choice differs, all or none.

        Returns how many were inserted and how many replaced. A replaced vote keeps its id.
        """

    def get(self, vote_id: str) -> Vote | None:
        """Read a vote."""

    def of(self, responses: Collection[str]) -> list[Vote]:
        """Votes on any of these answers, oldest first."""

    def all(self, route: str | None) -> list[Vote]:
        """Votes on answers of a route, or all votes, oldest first."""

    def reveal(self, vote_id: str) -> Vote | None:
        """Note that the voter was told the models; return the vote as it is now."""

    def remove(self, vote_id: str) -> bool:
        """Take a vote back unless it is revealed; True if it is gone."""

    def close(self) -> None:
        """Release files and connections."""
