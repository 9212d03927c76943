"""Open WebUI's export: thumbs of siblings become preferences, lone thumbs none."""

import json

import pytest

from service.core.votes.open_webui import read_export, trimmed


def feedback(number=1, rating=1, model="one", siblings=("two",), **changes):
    """A feedback as the admin export has it, without a snapshot."""
    made = {
        "id": f"f{number}",
        "user_id": "u1",
        "version": 0,
        "type": "rating",
        "data": {
            "rating": rating,
            "model_id": model,
            "sibling_model_ids": siblings and list(siblings),
            "reason": "accurate_information",
            "comment": "private words",
            "tags": ["cooking"],
            "details": {"rating": 8},
        },
        "meta": {
            "arena": False,
            "model_id": model,
            "message_id": f"m{number}",
            "message_index": 2,
            "chat_id": "c1",
        },
        "snapshot": None,
        "created_at": 1_750_000_000 + number,
        "updated_at": 1_750_000_000 + number,
    }
    return made | changes


def snapshot(**messages):
    """A snapshot of a chat with these messages, all answers to the message `q`."""
    known = {"q": {"id": "q", "parentId": None, "role": "user", "content": "a secret question"}}
    for message_id, (model, response_id) in messages.items():
        known[message_id] = {
            "id": message_id,
            "parentId": "q",
            "childrenIds": [],
            "role": "assistant",
            "model": model,
            "content": "a secret answer",
            "usage": {"total_tokens": 3} | ({"response_id": response_id} if response_id else {}),
        }
    chat = {"title": "secret", "history": {"messages": known, "currentId": "q"}}
    return {"chat": {"id": "c1", "user_id": "u1", "chat": chat}}


def outcomes(*feedbacks):
    return {
        (one.left.model, one.right.model, one.choice) for one in read_export(feedbacks).preferences
    }


def test_a_thumb_up_wins_against_each_sibling():
    """Two siblings, two preferences."""
    assert outcomes(feedback(siblings=("two", "three"))) == {
        ("one", "two", "left"),
        ("one", "three", "left"),
    }


@pytest.mark.parametrize("rating", [-1, "-1", -1.0])
def test_a_thumb_down_loses(rating):
    """Open WebUI has stored ratings as numbers and as texts."""
    (one,) = read_export([feedback(rating=rating)]).preferences
    winner = one.left if one.choice == "left" else one.right
    assert winner.model == "two"


@pytest.mark.parametrize(("rating", "choice"), [(1, "tie"), (-1, "both_bad")])
def test_equal_thumbs_on_both_answers_are_no_preference(rating, choice):
    """Two thumbs up would otherwise be two wins, each against the other."""
    chat = snapshot(m1=("one", None), m2=("two", None))
    both = [
        feedback(1, rating, "one", snapshot=chat),
        feedback(2, rating, "two", ("one",), snapshot=chat),
    ]
    (one,) = read_export(both).preferences
    assert one.choice == choice


def test_opposite_thumbs_on_both_answers_are_one_preference():
    """Not two."""
    chat = snapshot(m1=("one", None), m2=("two", None))
    both = [
        feedback(1, 1, "one", snapshot=chat),
        feedback(2, -1, "two", ("one",), snapshot=chat),
    ]
    (one,) = read_export(both).preferences
    assert (one.left.model, one.choice) in {("one", "left"), ("two", "right")}


def test_equal_thumbs_without_snapshots_are_paired_by_chat_and_position():
    """An export of an older version has none."""
    both = [feedback(1, 1, "one"), feedback(2, 1, "two", ("one",))]
    assert {choice for _, _, choice in outcomes(*both)} == {"tie"}


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (feedback(siblings=None), "no other answer to compare with"),
        (feedback(rating=None), "no thumb up or down"),
        (feedback(rating=True), "no thumb up or down"),
        (feedback(model=None), "no model named"),
        ("text", "not a feedback"),
        ({"data": {}}, "not a feedback"),
    ],
)
def test_what_is_no_preference_is_counted_by_reason(raw, reason):
    """A thumb without siblings compares nothing."""
    export = read_export([raw, feedback(9)])
    assert export.unused == {reason: 1}
    assert len(export.preferences) == 1


def test_blind_answers_are_told_apart_by_the_ids_in_their_usage():
    """The chat tool knows both by the route's name alone."""
    chat = snapshot(m1=("blind", "chatcmpl-a"), m2=("blind", "chatcmpl-b"))
    (one,) = read_export([feedback(model="blind", siblings=("blind",), snapshot=chat)]).preferences
    assert {one.left.response_id, one.right.response_id} == {"chatcmpl-a", "chatcmpl-b"}
    winner = one.left if one.choice == "left" else one.right
    assert winner.response_id == "chatcmpl-a"


def test_the_later_rating_of_an_answer_counts():
    """A user who changed the thumb may leave two feedbacks."""
    chat = snapshot(m1=("one", None), m2=("two", None))
    later = feedback(1, -1, snapshot=chat, id="f7", updated_at=1_760_000_000)
    export = read_export([later, feedback(1, 1, snapshot=chat)])
    (one,) = export.preferences
    assert (one.left.model, one.choice) in {("one", "right"), ("two", "left")}
    assert export.unused == {"replaced by a later rating of the same answer": 1}


def test_keys_are_the_same_in_every_export():
    """Whatever else the export has by then, so that an import can be repeated."""
    chat = snapshot(m1=("one", None), m2=("two", None))
    first = read_export([feedback(1, 1, snapshot=chat)])
    later = read_export(
        [feedback(2, 1, "two", ("one",), snapshot=chat), feedback(1, snapshot=chat)]
    )
    assert [one.key for one in first.preferences] == [one.key for one in later.preferences]
    assert [one.choice for one in later.preferences] == ["tie"]


def test_trimming_keeps_the_outcome_and_no_private_text():
    """What is sent to the service has no words of the conversation."""
    chat = snapshot(m1=("blind", "chatcmpl-a"), m2=("blind", "chatcmpl-b"))
    raw = [
        feedback(1, model="blind", siblings=("blind",), snapshot=chat),
        feedback(2),
        feedback(3, siblings=None),
    ]
    short = [trimmed(one) for one in raw]
    assert read_export(short) == read_export(raw)
    assert "secret" not in json.dumps(short)
    assert "private" not in json.dumps(short)


def test_a_broken_snapshot_is_none():
    """Names are left."""
    for broken in ({}, {"chat": []}, {"chat": {"chat": {"history": {"messages": []}}}}, 7):
        assert len(read_export([feedback(snapshot=broken)]).preferences) == 1
