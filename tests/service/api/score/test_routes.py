"""Scores over HTTP."""

import json

import pytest


def ask(live, *models, **fields):
    return live.post("/v1/score", {"models": list(models), "texts": ["one two", "three"]} | fields)


def test_texts_are_scored_by_each_model(live):
    """Numbers by text and in total, with the rule that they were taken by."""
    body = ask(live, "echo", "other").json()
    assert body["object"] == "score"
    assert "Every window begins with the model's start token" in body["conditioning"]
    assert [model["model"] for model in body["models"]] == ["echo", "other"]
    first, second = body["models"]
    assert [text["bytes"] for text in first["texts"]] == [7, 5]
    assert first["total"]["bytes"] == 12
    assert first["difference"] is None
    assert second["difference"] == {"texts": [0.0, 0.0], "total": 0.0}


def test_records_are_found_by_the_answers_ids(live):
    """Scores are requests like any other."""
    body = ask(live, "echo").json()
    for request_id in body["models"][0]["total"]["request_ids"]:
        record = live.record(request_id)
        assert (record["endpoint"], record["completion_tokens"]) == ("score", 0)


def test_a_stream_tells_each_text_then_the_whole(live):
    """Last comes the same document as without `stream`."""
    response = ask(live, "echo", "other", stream=True)
    events = [line.removeprefix("data: ") for line in response.text.split("\n") if line]
    *texts, whole, done = events
    assert done == "[DONE]"
    told = sorted((e["model"], e["text"]) for e in map(json.loads, texts))
    assert told == [("echo", 0), ("echo", 1), ("other", 0), ("other", 1)]
    assert json.loads(whole)["object"] == "score"


@pytest.mark.parametrize(
    ("fields", "status", "word"),
    [
        ({"models": []}, 400, "models"),
        ({"models": ["echo"] * 2}, 400, "twice"),
        ({"texts": []}, 400, "texts"),
        ({"texts": [""]}, 400, "texts"),
        ({"window_tokens": 1}, 400, "window_tokens"),
        ({"models": ["nobody"]}, 404, "nobody"),
        ({"max_tokens": 4}, 200, ""),
    ],
)
def test_what_cannot_be_scored_is_refused(live, fields, status, word):
    """By name of the field or the model."""
    response = ask(live, "echo", **fields)
    assert response.status_code == status
    assert word in response.text


def test_a_time_limit_holds_for_the_whole(live):
    """504, as everywhere."""
    response = ask(live, "echo", texts=["a b c d"] * 1000, timeout_s=0.001)
    assert response.json()["error"]["code"] == "deadline_exceeded"
