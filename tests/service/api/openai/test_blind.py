"""Blind routes: nothing that a client receives tells which arm answered."""

import json
from collections import Counter

import pytest

from service.core.routes.route import Arm, BlindRoute

ARMS = ("echo", "slow")
#: Names of arms, and what only one of them would have.
TELLING = (*ARMS, "dead", "failing", "broken", "single", "served-model", "float32", "no memory")


def blind(*arms, **options):
    return BlindRoute(arms=tuple(Arm(model=model) for model in arms), **options)


ROUTES = {
    "mystery": blind(*ARMS),
    "dying": blind("dead", "dead:half"),
    "cut": blind("failing", "failing:half"),
    "gone": blind("broken", "broken:half"),
    "narrow": blind("other", "other:half"),
}


@pytest.fixture(scope="module")
def masked(tmp_path_factory):
    from support.live_service import LiveService

    service = LiveService(tmp_path_factory.mktemp("blind"), routes=ROUTES).start()
    yield service
    service.stop()


def leaks(response):
    """Telling words in a response's headers and body; a served model may be named by its route."""
    headers = "\n".join(f"{name}: {value}" for name, value in response.headers.items())
    text = (headers + "\n" + response.text).replace("x-served-model: ", "x-route: ")
    return [word for word in TELLING if word in text.lower()]


def complete(live, model, **fields):
    return live.post("/v1/completions", {"model": model, "prompt": "one two", **fields})


def arm_of(live, response):
    return live.record(response.headers["x-request-id"])["model"]


def test_a_whole_answer_tells_nothing_and_the_record_everything(masked):
    """Model, metrics, timings, headers; both arms answer in turn."""
    arms = Counter()
    for _ in range(16):
        response = masked.chat(model="mystery")
        body = response.json()
        assert (body["model"], response.headers["x-served-model"]) == ("mystery", "mystery")
        assert "metrics" not in body
        assert "timings" not in body
        assert body["usage"]["response_id"] == body["id"]
        assert set(body["usage"]) == {
            "prompt_tokens", "completion_tokens", "total_tokens", "prompt_tokens_details",
            "response_id",
        }  # fmt: skip
        assert body["usage"]["prompt_tokens_details"] is None
        assert leaks(response) == []
        arms[arm_of(masked, response)] += 1
    assert set(arms) == set(ARMS)


@pytest.mark.parametrize("ask", ["chat", "complete"])
def test_a_stream_tells_nothing(masked, ask):
    """In no chunk, with every option that streams have."""
    options = {
        "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
    }
    for _ in range(6):
        response = (
            masked.chat(model="mystery", **options)
            if ask == "chat"
            else complete(masked, "mystery", **options)
        )
        chunks = [
            json.loads(line[6:])
            for line in response.text.splitlines()
            if line.startswith("data: {")
        ]
        assert {chunk["model"] for chunk in chunks} == {"mystery"}
        assert not any({"metrics", "timings"} & set(chunk) for chunk in chunks)
        assert chunks[-1]["usage"]["response_id"] == chunks[0]["id"]
        assert leaks(response) == []


def test_completions_tell_nothing(masked):
    """One prompt or several, each with an arm of its own."""
    for prompt in ("one two", ["one", "two"]):
        response = masked.post("/v1/completions", {"model": "mystery", "prompt": prompt})
        assert response.json()["model"] == "mystery"
        assert '"metrics"' not in response.text
        assert leaks(response) == []


@pytest.mark.parametrize(
    ("route", "status", "code"),
    [("dying", 503, "engine_failed"), ("gone", 424, "model_not_ready")],
)
@pytest.mark.parametrize("stream", [False, True])
def test_an_error_tells_its_code_and_no_model(masked, route, status, code, stream):
    """The record has the model and the same code."""
    response = masked.chat(model=route, stream=stream)
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)
    assert f"`{route}`" in response.json()["error"]["message"]
    assert leaks(response) == []
    record = masked.record(response.headers["x-request-id"])
    assert record["error_code"] == code
    assert record["route_inputs"]["arms"][0].startswith(("dead", "broken"))


def test_an_error_in_the_middle_of_a_stream_tells_no_model(masked):
    """An error event names its code."""
    response = masked.chat("one two three four", model="cut", stream=True)
    assert '"code":"engine_failed"' in response.text
    assert leaks(response) == []


def test_too_long_a_prompt_is_refused_without_the_arms_context(masked):
    """Chat tools match the words; the number would tell the arm."""
    response = masked.chat("word " * 80, model="narrow")
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (400, "context_length_exceeded")
    assert "maximum context length" in error["message"]
    assert "64" not in error["message"]


@pytest.mark.parametrize(
    ("ask", "fields"),
    [
        ("chat", {"logprobs": True}),
        ("chat", {"logprobs": True, "top_logprobs": 2, "stream": True}),
        ("chat", {"return_token_ids": True}),
        ("complete", {"logprobs": 0}),
        ("complete", {"echo": True}),
        ("complete", {"return_token_ids": True}),
    ],
)
def test_what_shows_tokens_is_refused_by_name(masked, ask, fields):
    """A vocabulary tells a model."""
    response = (
        masked.chat(model="mystery", **fields)
        if ask == "chat"
        else complete(masked, "mystery", **fields)
    )
    assert response.status_code == 400
    assert response.json()["error"]["param"] in fields
    assert masked.chat(model="mystery", logprobs=False).status_code == 200


def test_the_card_of_the_route_tells_no_arm(masked):
    """Neither which there are, nor their states and counts of requests."""
    response = masked.get("/v1/models/mystery")
    assert response.json()["route"] == {"policy": "blind", "arms": []}
    assert leaks(response) == []


def test_a_sticky_route_keeps_a_client_on_its_arm(serve):
    """Every turn of a conversation is of one model then."""
    live = serve(routes={"mystery": blind("echo", "other", sticky=True)})
    for user in ("ann", "bob", "cy"):
        arms = {arm_of(live, live.chat(model="mystery", user=user)) for _ in range(6)}
        assert len(arms) == 1
