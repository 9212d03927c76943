"""Replays over HTTP: recorded conversations asked again, with turns and parameters."""

import pytest

TURNS = [
    {"role": "system", "content": "be brief"},
    {"role": "user", "content": "one two"},
    {"role": "assistant", "content": "three"},
    {"role": "user", "content": "four five six"},
]


def replay(live, **fields):
    created = live.post("/v1/replays", {"arms": [{"model": "other"}]} | fields)
    assert created.status_code == 201, created.text
    replay_id = created.json()["id"]
    live.until(lambda: live.get(f"/v1/replays/{replay_id}").json()["state"] == "done")
    return live.get(f"/v1/replays/{replay_id}").json()


def pairs_of(live, found):
    return live.get(f"/v1/replays/{found['id']}/pairs").json()["data"]


@pytest.fixture
def recording(serve):
    return serve(store_content="full")


def test_turns_and_parameters_are_kept(recording):
    """The new request's record has the same prompt and sampling, and names the recorded one."""
    asked = {"model": "echo", "messages": TURNS, "max_tokens": 2, "temperature": 0.5, "seed": 7}
    answer = recording.post("/v1/chat/completions", asked | {"stop": ["zzz"]})
    found = replay(recording)
    (pair,) = pairs_of(recording, found)
    old = recording.record(answer.headers["x-request-id"])
    new = recording.record(pair["replay"])
    assert pair["original"] == old["request_id"] == new["replay_of"]
    assert new["prompt_content"] == old["prompt_content"]
    assert new["sampling"] == old["sampling"]
    assert (new["model"], new["experiment_id"]) == ("other", found["id"])
    assert pair["same_text"] is True
    assert pair["differences"]["completion_tokens"] == {"absolute": 0, "ratio": 1}


def test_each_arm_is_summarized_against_the_recorded_answers(recording):
    """With ratios, counts, and what to know about them."""
    for number in range(7):
        recording.chat(f"message {number} " + "word " * number, max_tokens=4)
    found = replay(recording, arms=[{"model": "other"}, {"model": "echo"}])
    assert (found["object"], found["conversations"], found["unusable"]) == ("replay", 7, {})
    assert [(arm["model"], arm["pairs"], arm["same_text"]) for arm in found["arms"]] == [
        ("other", 7, 7), ("echo", 7, 7),
    ]  # fmt: skip
    ratio = found["arms"][0]["ratios"]["completion_tokens"]
    assert (ratio["median"], ratio["n"]) == (1, 7)
    assert "beside whatever else" in found["arms"][0]["caveats"][0]


def test_an_arm_may_change_a_parameter(recording):
    """What it names replaces the recorded value; the rest is kept."""
    recording.chat("one two three", max_tokens=2, temperature=0.5)
    found = replay(recording, arms=[{"model": "other", "sampling": {"temperature": 0.9}}])
    (pair,) = pairs_of(recording, found)
    assert recording.record(pair["replay"])["sampling"] == {"temperature": 0.9, "max_tokens": 2}


def test_what_cannot_be_asked_again_is_counted_by_its_reason(recording):
    """Token ids of one model, in prompt or parameters, failures, and the service's own requests."""
    recording.chat("good", max_tokens=1)
    tokens = recording.post("/tokenize", {"model": "echo", "prompt": "abc"}).json()["tokens"]
    recording.post("/v1/completions", {"model": "echo", "prompt": tokens, "max_tokens": 1})
    recording.chat("biased", max_tokens=1, logit_bias={"300": 1})
    recording.chat("nobody", model="broken")
    recording.post("/v1/score", {"models": ["echo"], "texts": ["a text"]})
    found = replay(recording)
    assert found["conversations"] == 1
    assert found["unusable"] == {"tokens": 1, "logit_bias": 1, "not_ok": 1, "not_of_a_client": 1}


def test_a_completions_text_and_a_continued_turn_are_replayed_as_they_were(recording):
    """A text stays a text, even one that looks like JSON; a continuation continues."""
    recording.post("/v1/completions", {"model": "echo", "prompt": "[1, 2]", "max_tokens": 3})
    recording.post(
        "/v1/chat/completions",
        {"model": "echo", "messages": TURNS[:3], "continue_final_message": True, "max_tokens": 3},
    )
    found = replay(recording)
    for pair in pairs_of(recording, found):
        old, new = (recording.record(pair[name]) for name in ("original", "replay"))
        assert old["prompt_content"] == new["prompt_content"]
        assert old["completion_content"] == new["completion_content"]
    assert found["conversations"] == 2


def test_without_stored_contents_it_is_refused(live):
    """With the setting that stores them."""
    live.chat("hi", max_tokens=1)
    refused = live.post("/v1/replays", {"arms": [{"model": "other"}]})
    assert refused.status_code == 400
    assert "store_content" in refused.json()["error"]["message"]
    assert "no_content" in refused.json()["error"]["message"]


@pytest.mark.parametrize(
    ("fields", "status", "word"),
    [
        ({"arms": []}, 400, "arms"),
        ({"arms": [{"model": "nobody"}]}, 404, "nobody"),
        ({"filter": {"modle": "echo"}}, 400, "modle"),
        ({"limit": 0}, 400, "limit"),
        ({"modles": 1}, 400, "modles"),
    ],
)
def test_a_bad_request_names_its_field(live, fields, status, word):
    """As everywhere."""
    refused = live.post("/v1/replays", {"arms": [{"model": "other"}]} | fields)
    assert refused.status_code == status
    assert word in refused.text


def test_an_experiment_is_no_replay(recording):
    """Its id is not found here, and a replay's is found there."""
    recording.chat("hi", max_tokens=1)
    found = replay(recording)
    assert recording.get(f"/v1/experiments/{found['id']}").status_code == 200
    plan = {"name": "x", "arms": [{"model": "echo"}], "prompts": {"kind": "inline", "items": ["a"]}}
    other = recording.post("/v1/experiments", plan).json()["id"]
    assert recording.get(f"/v1/replays/{other}").status_code == 404
