"""In-memory vote store, for tests and for services that must leave nothing on disk."""

import threading
from collections.abc import Collection, Sequence

from msgspec import structs

from service.core.votes.vote import Vote


class MemoryVoteStore:
    """Votes in a dict by key; gone with the process. Safe to use from several threads."""

    def __init__(self) -> None:
        self._votes: dict[str, Vote] = {}
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<MemoryVoteStore [{len(self._votes)} votes]>"

    def add(self, vote: Vote) -> bool:
        """Insert a vote; False if there is one with its key already."""
        with self._lock:
            return self._votes.setdefault(vote.key, vote) is vote

    def put(self, votes: Sequence[Vote]) -> tuple[int, int]:
        """Insert or replace by key; return how many were inserted and how many replaced."""
        added = replaced = 0
        with self._lock:
            for vote in votes:
                older = self._votes.get(vote.key)
                if older is None:
                    self._votes[vote.key] = vote
                    added += 1
                elif older.choice != vote.choice:
                    self._votes[vote.key] = structs.replace(vote, vote_id=older.vote_id)
                    replaced += 1
        return added, replaced

    def get(self, vote_id: str) -> Vote | None:
        """Read a vote."""
        return next((vote for vote in self._sorted() if vote.vote_id == vote_id), None)

    def of(self, responses: Collection[str]) -> list[Vote]:
        """Votes on any of these answers, oldest first."""
        asked = set(responses)
        return [
            vote for vote in self._sorted() if {vote.left_response, vote.right_response} & asked
        ]

    def all(self, route: str | None) -> list[Vote]:
        """Votes on answers of a route, or all votes, oldest first."""
        return [vote for vote in self._sorted() if route in (None, vote.route)]

    def reveal(self, vote_id: str) -> Vote | None:
        """Note that the voter was told the models; return the vote as it is now."""
        with self._lock:
            for key, vote in self._votes.items():
                if vote.vote_id == vote_id:
                    self._votes[key] = structs.replace(vote, revealed=True)
                    return self._votes[key]
        return None

    def remove(self, vote_id: str) -> bool:
        """Take a vote back unless it is revealed; True if it is gone."""
        with self._lock:
            for key, vote in self._votes.items():
                if vote.vote_id == vote_id and not vote.revealed:
                    del self._votes[key]
                    return True
        return False

    def close(self) -> None:
        """Nothing to release."""

    def _sorted(self) -> list[Vote]:
        with self._lock:
            return sorted(self._votes.values(), key=lambda vote: (vote.at_ns, vote.vote_id))
