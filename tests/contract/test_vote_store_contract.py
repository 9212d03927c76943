"""Every vote store is asked the same questions."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec import structs

from service.core.votes.vote import Vote, VoteStore
from service.storage.votes import open_vote_store

VOTE = Vote(
    vote_id="vote-1",
    key="a|b",
    at_ns=5,
    source="api",
    route="blind",
    left_model="one",
    right_model="two:int8",
    left_response="a",
    right_response="b",
    choice="both_bad",
    voter="Zoë",
    not_counted="same arm",
    revealed=False,
)


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[VoteStore]:
    urls = {"memory": "memory://", "sqlite": f"sqlite:///{tmp_path}/records.db"}
    opened = open_vote_store(urls[request.param])
    yield opened
    opened.close()


def another(number: int, **changes: object) -> Vote:
    return structs.replace(VOTE, vote_id=f"vote-{number}", key=f"k{number}", **changes)


def test_a_full_vote_comes_back_equal(store: VoteStore) -> None:
    """Every field survives writing and reading."""
    assert store.add(VOTE)
    assert store.get("vote-1") == VOTE
    assert store.all(None) == [VOTE]


def test_unknown_stays_none(store: VoteStore) -> None:
    """A vote of another tool knows neither route nor responses."""
    bare = structs.replace(
        VOTE, route=None, left_response=None, right_response=None, voter=None, not_counted=None
    )
    store.add(bare)
    assert store.get("vote-1") == bare


def test_a_pair_has_one_vote(store: VoteStore) -> None:
    """The second is not taken, and the first stays as it was."""
    store.add(VOTE)
    assert not store.add(structs.replace(VOTE, vote_id="vote-2", choice="left"))
    assert store.all(None) == [VOTE]


def test_putting_again_changes_nothing_but_changed_choices(store: VoteStore) -> None:
    """Counts say what happened; a replaced vote keeps its id."""
    votes = [another(1), another(2)]
    assert store.put(votes) == (2, 0)
    assert store.put([structs.replace(vote, vote_id="new") for vote in votes]) == (0, 0)
    changed = another(2, choice="right")
    assert store.put([another(1), structs.replace(changed, vote_id="new")]) == (0, 1)
    assert store.get("vote-2") == changed
    assert store.get("new") is None


def test_votes_are_found_by_either_answer(store: VoteStore) -> None:
    """Oldest first."""
    store.add(another(1, at_ns=9, left_response="x"))
    store.add(another(2, at_ns=3, right_response="x"))
    store.add(another(3))
    assert [vote.vote_id for vote in store.of(["x", "y"])] == ["vote-2", "vote-1"]
    assert store.of([]) == []


def test_votes_are_listed_by_route(store: VoteStore) -> None:
    """None asks for those of all routes."""
    store.add(another(1, route="other"))
    store.add(another(2))
    assert [vote.vote_id for vote in store.all("blind")] == ["vote-2"]
    assert len(store.all(None)) == 2


def test_a_revealed_vote_stays(store: VoteStore) -> None:
    """Before, it can be taken back; its pair can then be voted on again."""
    store.add(VOTE)
    assert store.remove("vote-1")
    assert not store.remove("vote-1")
    assert store.add(VOTE)
    revealed = store.reveal("vote-1")
    assert revealed == structs.replace(VOTE, revealed=True)
    assert not store.remove("vote-1")
    assert store.get("vote-1") == revealed


def test_no_such_vote_is_none(store: VoteStore) -> None:
    """Neither read nor revealed nor removed."""
    assert store.get("no") is store.reveal("no") is None
    assert not store.remove("no")


def test_votes_survive_the_service(tmp_path: Path) -> None:
    """A vote is on disk when `add` returns."""
    url = f"sqlite:///{tmp_path}/records.db"
    first = open_vote_store(url)
    first.add(VOTE)
    second = open_vote_store(url)
    assert second.get("vote-1") == VOTE
    first.close()
    second.close()
