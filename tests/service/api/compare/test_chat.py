"""Chats to a compare route: all arms in one message, each with a record."""

import json

import pytest

from service.core.routes.route import Arm, CompareRoute
from support.live_service import LiveService


def compared(*arms, mode="isolated"):
    return CompareRoute(arms=tuple(Arm(model=model) for model in arms), mode=mode)


ROUTES = {
    "both": compared("echo", "other"),
    "at-once": compared("slow", "echo", mode="concurrent"),
    "partly": compared("echo", "dead", "broken"),
}


@pytest.fixture(scope="module")
def comparing(tmp_path_factory):
    service = LiveService(tmp_path_factory.mktemp("compare"), routes=ROUTES).start()
    yield service
    service.stop()


def chunks_of(response):
    return [
        json.loads(line[6:]) for line in response.text.splitlines() if line.startswith("data: {")
    ]


def text_of(chunks):
    return "".join(
        choice["delta"].get("content", "") for chunk in chunks for choice in chunk["choices"]
    )


def test_a_whole_answer_has_all_arms_and_a_table(comparing):
    """Headed by name; usage is the sum."""
    response = comparing.chat("one two three", model="both")
    body = response.json()
    content = body["choices"][0]["message"]["content"]
    assert "### echo\n\none two three\n\n" in content
    assert "### other\n\none two three\n\n" in content
    assert "| echo | " in content
    assert "One run each, which is no measurement" in content
    assert (body["model"], body["choices"][0]["finish_reason"]) == ("both", "stop")
    assert response.headers["x-route-policy"] == "compare"
    records = comparing.get(
        "/v1/records", params={"comparison_id": response.headers["x-comparison-id"]}
    ).json()["data"]
    assert {(r["model"], r["requested_model"], r["route"], r["status"]) for r in records} == {
        ("echo", "both", "compare", "ok"),
        ("other", "both", "compare", "ok"),
    }
    assert body["usage"]["completion_tokens"] == sum(r["completion_tokens"] for r in records)
    first = comparing.record(response.headers["x-request-id"])
    assert (first["arm"], first["model"]) == (0, "echo")
    assert "metrics" not in body


@pytest.mark.parametrize("model", ["both", "at-once"])
def test_a_stream_is_the_same_message_in_pieces(comparing, model):
    """One section after the other, also where the arms run at once; usage once, at the end."""
    options = {"stream": True, "stream_options": {"include_usage": True}}
    response = comparing.chat("one two three", model=model, **options)
    chunks = chunks_of(response)
    content = text_of(chunks)
    for arm in ROUTES[model].models:
        assert f"### {arm}\n\none two three\n\n" in content
    assert content.count("| model |") == 1
    assert {chunk["model"] for chunk in chunks} == {model}
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert [chunk["usage"] for chunk in chunks if chunk.get("usage")] == [chunks[-1]["usage"]]
    assert chunks[-1]["choices"] == []
    reasons = [c["finish_reason"] for chunk in chunks for c in chunk["choices"]]
    assert reasons[-1] == "stop"
    assert set(reasons[:-1]) == {None}
    assert response.text.endswith("data: [DONE]\n\n")


def test_arms_that_cannot_answer_are_told_in_their_places(comparing):
    """The others answer; every arm has a record."""
    response = comparing.chat("one two", model="partly")
    content = response.json()["choices"][0]["message"]["content"]
    assert "### echo\n\none two\n\n" in content
    assert "*No answer (engine_failed): " in content
    assert "*No answer (model_not_ready): no memory for it*" in content
    records = comparing.get(
        "/v1/records", params={"comparison_id": response.headers["x-comparison-id"]}
    ).json()["data"]
    assert sorted((r["arm"], r["status"]) for r in records) == [
        (0, "ok"), (1, "failed"), (2, "failed"),
    ]  # fmt: skip


def test_each_arm_continues_its_own_conversation(tmp_path):
    """It sees what it answered before, and nothing of the others."""
    live = LiveService(tmp_path, routes=ROUTES, store_content="full").start()
    try:
        first = live.chat("one two three", model="both").json()["choices"][0]["message"]
        edited = first["content"].replace("### other\n\none two three", "### other\n\nfour")
        assert edited != first["content"]
        messages = [
            {"role": "user", "content": "one two three"},
            {"role": "assistant", "content": edited},
            {"role": "user", "content": "more"},
        ]
        response = live.post("/v1/chat/completions", {"model": "both", "messages": messages})
        records = live.get(
            "/v1/records", params={"comparison_id": response.headers["x-comparison-id"]}
        ).json()["data"]
        turns = {r["model"]: json.loads(r["prompt_content"])[1]["content"] for r in records}
        assert turns == {"echo": "one two three", "other": "four"}
    finally:
        live.stop()


@pytest.mark.parametrize(
    "fields",
    [
        {"logprobs": True},
        {"return_token_ids": True},
        {"stream": True, "stream_options": {"continuous_usage_stats": True}},
    ],
)
def test_what_only_one_model_can_have_is_refused_by_name(comparing, fields):
    """Not silently left out."""
    response = comparing.chat(model="both", **fields)
    assert response.status_code == 400
    param = response.json()["error"]["param"]
    assert param.rpartition(".")[2] in str(fields)


def test_a_text_completion_names_one_model(comparing):
    """The refusal is recorded."""
    response = comparing.post("/v1/completions", {"model": "both", "prompt": "one"})
    assert response.status_code == 400
    assert "name one of its arms" in response.json()["error"]["message"]
    assert comparing.record(response.headers["x-request-id"])["status"] == "refused"


def test_a_cut_answer_says_so(comparing):
    """`length`, if any arm's answer was cut."""
    body = comparing.chat("one two three", model="both", max_tokens=2).json()
    assert body["choices"][0]["finish_reason"] == "length"


def test_hanging_up_ends_all_arms(comparing):
    """Nothing runs on."""
    messages = [{"role": "user", "content": "word " * 100}]
    body = {"model": "at-once", "messages": messages, "stream": True}
    with comparing.client.stream("POST", "/v1/chat/completions", json=body) as response:
        next(response.iter_lines())
    comparing.until(lambda: comparing.requests == 0)


def test_the_explanation_of_an_arm_says_which_it_was(comparing):
    """Nothing was chosen, so there is nothing to compute again."""
    request_id = comparing.chat(model="both").headers["x-request-id"]
    told = comparing.get(f"/v1/records/{request_id}/route").json()
    assert (told["policy"], told["arms"], told["reason"]) == ("compare", ["echo"], "arm 0")
    assert told["same"] is None
