"""Votes over HTTP: blind until the vote, one vote a pair, no way back after the reveal."""

import pytest

from service.core.routes.route import Arm, BlindRoute, WeightedRoute
from support.live_service import LiveService

ROUTES = {
    "mystery": BlindRoute(arms=(Arm(model="echo"), Arm(model="other"))),
    "second": BlindRoute(arms=(Arm(model="echo"), Arm(model="other"))),
    "open": WeightedRoute(arms=(Arm(model="echo"),)),
}


@pytest.fixture
def voting(tmp_path):
    service = LiveService(tmp_path, routes=ROUTES).start()
    yield service
    service.stop()


def answers(live, *arms, model="mystery"):
    """Ids of answers that these arms gave, in this order."""
    found = {}
    wanted = list(arms)
    while wanted:
        response = live.chat(model=model)
        arm = live.record(response.headers["x-request-id"])["model"]
        if arm in wanted:
            wanted.remove(arm)
            found.setdefault(arm, []).append(response.json()["id"])
    return [found[arm].pop(0) for arm in arms]


def vote(live, left, right, choice="left", **fields):
    return live.post("/v1/votes", {"left": left, "right": right, "choice": choice, **fields})


def test_a_vote_reveals_the_models(voting):
    """By response ids; it is final then."""
    left, right = answers(voting, "other", "echo")
    body = vote(voting, left, right, "left", user="ann").json()
    assert (body["left_model"], body["right_model"], body["route"]) == ("other", "echo", "mystery")
    assert (body["choice"], body["counts"], body["revealed"]) == ("left", True, True)
    assert voting.get(f"/v1/votes/{body['id']}").json() == body
    undone = voting.client.delete(f"/v1/votes/{body['id']}")
    assert (undone.status_code, undone.headers["x-should-retry"]) == (409, "false")


def test_a_vote_can_be_taken_back_until_it_is_revealed(voting):
    """Hidden, undone, voted again, revealed."""
    left, right = answers(voting, "echo", "other")
    hidden = vote(voting, left, right, "tie", reveal=False)
    body = hidden.json()
    assert (body["left_model"], body["right_model"], body["counts"]) == (None, None, None)
    assert "echo" not in hidden.text
    assert voting.client.delete(f"/v1/votes/{body['id']}").json()["deleted"]
    assert voting.get(f"/v1/votes/{body['id']}").status_code == 404
    again = vote(voting, left, right, "right", reveal=False).json()
    shown = voting.post(f"/v1/votes/{again['id']}/reveal", {}).json()
    assert (shown["left_model"], shown["choice"]) == ("echo", "right")
    assert voting.client.delete(f"/v1/votes/{again['id']}").status_code == 409


def test_a_pair_has_one_vote_whichever_side_is_left(voting):
    """The second is refused."""
    left, right = answers(voting, "echo", "other")
    assert vote(voting, left, right, reveal=False).status_code == 200
    for pair in ((left, right), (right, left)):
        response = vote(voting, *pair)
        assert (response.status_code, response.json()["error"]["code"]) == (409, "conflict")


def test_an_unmasked_answer_cannot_be_voted_on_again(voting):
    """Whoever saw its model is no longer blind."""
    left, right, third = answers(voting, "echo", "other", "other")
    vote(voting, left, right)
    response = vote(voting, left, third)
    assert response.status_code == 409
    assert "revealed" in response.json()["error"]["message"]


def test_two_answers_of_one_arm_are_recorded_and_not_counted(voting):
    """Nothing is learned of them."""
    left, right = answers(voting, "echo", "echo")
    assert vote(voting, left, right).json()["counts"] is False
    ratings = voting.get("/v1/votes/ratings?route=mystery").json()
    assert ratings["votes"] == 0
    assert ratings["not_counted"] == {"both answers are of one arm": 1}


def test_what_is_no_pair_of_blind_answers_is_refused_by_name(voting):
    """Unknown ids, one answer twice, other routes, named models."""
    left, right = answers(voting, "echo", "other")
    elsewhere = voting.chat(model="second").json()["id"]
    named = voting.chat(model="open").json()["id"]
    cases = {
        (left, "chatcmpl-no"): (404, "right"),
        ("no", right): (404, "left"),
        (left, left): (400, "right"),
        (left, elsewhere): (400, "right"),
        (named, right): (400, "left"),
    }
    for pair, (status, param) in cases.items():
        response = vote(voting, *pair)
        assert (response.status_code, response.json()["error"]["param"]) == (status, param), pair
    assert vote(voting, left, right, "better").status_code == 400
    assert vote(voting, left, right, model="echo").json()["error"]["param"] == "model"


def test_answers_to_different_prompts_are_refused_where_prompts_are_kept(tmp_path):
    """Elsewhere that cannot be known."""
    live = LiveService(tmp_path, routes=ROUTES, store_content="full").start()
    try:
        (left,) = answers(live, "echo")
        while True:
            response = live.chat("another question", model="mystery")
            if live.record(response.headers["x-request-id"])["model"] == "other":
                break
        refused = vote(live, left, response.json()["id"])
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "right")
        assert "different prompts" in refused.json()["error"]["message"]
    finally:
        live.stop()


def test_ratings_rank_what_votes_tell_apart(voting):
    """Seven wins of eight for one arm."""
    for number in range(8):
        left, right = answers(voting, "echo", "other")
        vote(voting, left, right, "left" if number else "right")
    body = voting.get("/v1/votes/ratings?route=mystery&seed=1").json()
    assert [model["model"] for model in body["models"]] == ["echo", "other"]
    assert body["wins"] == {"echo": {"other": 7.0}, "other": {"echo": 1.0}}
    assert body["models"][0]["low"] <= body["models"][0]["strength"]
    assert isinstance(body["pairs"][0]["ranked"], bool)
    assert voting.get("/v1/votes/ratings?route=second").json()["models"] == []
    assert voting.get("/v1/votes/ratings").json()["votes"] == 8


def feedback(live, winner, loser):
    """Open WebUI's feedback on two answers of the blind route, as its export has it."""
    messages = {
        message_id: {
            "parentId": "q", "model": "mystery",
            "usage": {"total_tokens": 5, "response_id": response_id},
        }
        for message_id, response_id in (("m1", winner), ("m2", loser))
    }  # fmt: skip
    return {
        "id": "f1", "user_id": "u1", "type": "rating", "created_at": 1, "updated_at": 1,
        "data": {"rating": 1, "model_id": "mystery", "sibling_model_ids": ["mystery"]},
        "meta": {"chat_id": "c", "message_id": "m1", "message_index": 1},
        "snapshot": {"chat": {"chat": {"history": {"messages": messages}}}},
    }  # fmt: skip


def test_ratings_of_open_webui_are_imported_with_the_arms_of_our_records(voting):
    """The tool knows the route alone; importing again changes nothing."""
    winner, loser = answers(voting, "other", "echo")
    lone = {"id": "f2", "data": {"rating": 1, "model_id": "echo"}}
    named = {
        "id": "f3", "data": {"rating": -1, "model_id": "echo", "sibling_model_ids": ["phi"]},
    }  # fmt: skip
    export = [feedback(voting, winner, loser), lone, named]
    first = voting.post("/v1/votes/import", export).json()
    assert (first["added"], first["replaced"], first["known"]) == (2, 0, 0)
    assert first["unused"] == {"no other answer to compare with": 1}
    again = voting.post("/v1/votes/import", export).json()
    assert (again["added"], again["known"]) == (0, 2)
    blind = voting.get("/v1/votes/ratings?route=mystery").json()
    assert blind["wins"] == {"other": {"echo": 1.0}, "echo": {"other": 0.0}}
    assert set(voting.get("/v1/votes/ratings").json()["wins"]) == {"echo", "other", "phi"}


def test_a_blind_answer_without_a_record_is_imported_and_not_counted(voting):
    """Its arm is unknown."""
    body = voting.post("/v1/votes/import", [feedback(voting, "chatcmpl-x", "chatcmpl-y")]).json()
    assert body["not_counted"] == {"no record of the blind answer": 1}


def test_an_export_that_is_no_list_is_refused(voting):
    """With 400, not 500."""
    assert voting.post("/v1/votes/import", {"data": []}).status_code == 400
    assert voting.post("/v1/votes/import", [None, 3, []]).json()["unused"] == {"not a feedback": 3}


def test_an_export_may_be_larger_than_other_bodies(voting):
    """Whole conversations are in it."""
    big = {"id": "f", "data": {}, "snapshot": {"chat": "word " * 300_000}}
    response = voting.post("/v1/votes/import", [big])
    assert response.status_code == 200
    assert response.json()["unused"] == {"no thumb up or down": 1}
