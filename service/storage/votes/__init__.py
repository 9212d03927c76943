"""Storage of votes."""

from service.core.votes.vote import VoteStore


def open_vote_store(url: str) -> VoteStore:
    """The vote store at a URL that `service.storage.open_store` takes."""
    if url.startswith("memory:"):
        from service.storage.votes.memory import MemoryVoteStore

        return MemoryVoteStore()
    from service.storage.votes.sql import SqlVoteStore

    return SqlVoteStore(url)
