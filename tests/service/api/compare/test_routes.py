"""Comparisons over HTTP."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from service.settings import CompareSettings


def ask(live, *arms, **fields):
    messages = [{"role": "user", "content": "one two three"}]
    return live.post("/v1/compare", {"messages": messages, "arms": list(arms)} | fields)


@pytest.mark.parametrize("mode", ["isolated", "concurrent"])
def test_arms_are_answered_side_by_side(live, mode):
    """Text, cost, build and difference of each, in the order of the request."""
    body = ask(live, {"model": "echo"}, {"model": "other"}, mode=mode).json()
    assert (body["object"], body["mode"]) == ("comparison", mode)
    assert sorted(body["order"]) == [0, 1]
    first, second = body["arms"]
    assert (first["model"], second["model"]) == ("echo", "other")
    assert first["text"] == second["text"] == "one two three"
    assert first["difference"] is None
    assert second["difference"]["completion_tokens"] == {"absolute": 0, "ratio": 1}
    assert second["metrics"]["verified"] is True
    assert second["build"]["engine"] == "echo"


def test_records_carry_the_comparison_and_the_arm(live):
    """So that a comparison can be read again later."""
    response = ask(live, {"model": "echo"}, {"model": "echo"})
    body = response.json()
    assert response.headers["x-comparison-id"] == body["id"]
    page = live.get(f"/v1/records?comparison_id={body['id']}").json()["data"]
    assert sorted(record["arm"] for record in page) == [0, 1]
    assert {arm["request_id"] for arm in body["arms"]} == {r["request_id"] for r in page}


def test_an_arm_has_the_comparisons_sampling_unless_it_has_its_own(live):
    """Field by field."""
    arms = ({"model": "echo"}, {"model": "echo", "max_tokens": 1})
    body = ask(live, *arms, max_tokens=2).json()
    assert [arm["text"] for arm in body["arms"]] == ["one two", "one"]
    body = ask(live, *arms, max_completion_tokens=2).json()
    assert [arm["text"] for arm in body["arms"]] == ["one two", "one"]


def test_a_variant_is_named_beside_its_model(live):
    """`variant` is short for `model:variant`."""
    body = ask(live, {"model": "echo"}, {"model": "echo", "variant": "half"}).json()
    assert body["arms"][1]["model"] == "echo:half"
    assert body["arms"][1]["status"] == "ok"


def test_an_arm_that_fails_is_reported_in_its_place(live):
    """The comparison itself is a success."""
    response = ask(live, {"model": "nobody"}, {"model": "failing"}, {"model": "echo"})
    assert response.status_code == 200
    missing, failing, good = response.json()["arms"]
    assert (missing["status"], missing["error"]["code"]) == ("refused", "model_not_found")
    assert (failing["status"], failing["error"]["code"]) == ("failed", "engine_failed")
    assert (failing["text"], failing["metrics"]) == ("one two", None)
    assert (good["status"], good["error"]) == ("ok", None)


def test_a_stream_tags_every_event_with_its_arm(live):
    """Started, deltas, each arm's result, the comparison, `[DONE]`."""
    response = ask(live, {"model": "echo"}, {"model": "other"}, stream=True)
    events = [e.removeprefix("data: ") for e in response.text.split("\n\n") if e]
    assert events.pop() == "[DONE]"
    *events, whole = [json.loads(event) for event in events]
    assert whole["object"] == "comparison"
    for arm in (0, 1):
        mine = [event for event in events if event["arm"] == arm]
        assert mine[0]["object"] == "comparison.started"
        assert mine[-1]["object"] == "comparison.arm"
        text = "".join(e["text"] for e in mine if e["object"] == "comparison.delta")
        assert text == mine[-1]["text"] == whole["arms"][arm]["text"]


def test_the_order_can_be_repeated(live):
    """The seed is in the answer."""
    arms = [{"model": "echo"}] * 4
    body = ask(live, *arms, max_tokens=1).json()
    again = ask(live, *arms, max_tokens=1, order_seed=body["order_seed"]).json()
    assert again["order"] == body["order"]


@pytest.mark.parametrize(
    ("arms", "fields", "param"),
    [
        ([{"model": "echo"}], {}, "arms"),
        ([{"model": "echo"}] * 9, {}, "arms"),
        ([{"model": "echo"}] * 2, {"mode": "both"}, "mode"),
        ([{"model": "echo"}] * 2, {"n": 2}, "n"),
        ([{"model": "echo"}, {"model": "echo", "temperature": 3}], {}, "arms[1].temperature"),
        ([{"model": "echo"}, {"model": "echo:half", "variant": "x"}], {}, "arms[1].variant"),
        ([{"model": "echo"}, {}], {}, "arms[1].model"),
        ([{"model": "echo"}, {"model": "echo", "top": 1}], {}, "arms[1].top"),
        ([{"model": "echo"}, {"model": "echo", "logprobs": 1}], {}, "arms[1].logprobs"),
        ([{"model": "echo"}] * 2, {"logprobs": True}, "logprobs"),
        ([{"model": "echo"}] * 2, {"continue_final_message": True}, "continue_final_message"),
        ([{"model": "echo"}] * 2, {"return_token_ids": True}, "return_token_ids"),
        ([{"model": "echo"}] * 2, {"stream_options": {}}, "stream_options"),
        ([{"model": "echo"}] * 2, {"model": "echo"}, "model"),
    ],
)
def test_wrong_comparisons_are_refused_by_name(live, arms, fields, param):
    """Before anything is started."""
    response = ask(live, *arms, **fields)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


def test_a_machine_that_is_not_quiet_is_503_for_the_comparison(serve):
    """With the time after which to try again, streamed or not; the rest is answered meanwhile."""
    live = serve(compare=CompareSettings(max_wait_s=0.3, max_stall_s=0.1))
    live.chat("load it", model="slow")
    with ThreadPoolExecutor() as pool:
        long = pool.submit(live.chat, "w " * 100, model="slow")
        live.until(lambda: live.requests == 1)
        for stream in (False, True):
            response = ask(live, {"model": "echo"}, {"model": "echo"}, stream=stream)
            assert response.status_code == 503
            assert response.json()["error"]["code"] == "machine_busy"
            assert int(response.headers["retry-after"]) >= 1
        assert not long.done()
        assert live.chat().status_code == 200
        assert long.result().status_code == 200


def test_comparisons_that_are_switched_off_are_403(serve):
    """The setting is named."""
    live = serve(compare=CompareSettings(enabled=False))
    response = ask(live, {"model": "echo"}, {"model": "echo"})
    assert response.status_code == 403
    assert response.json()["error"]["code"] == "feature_disabled"
    assert "compare.enabled" in response.json()["error"]["message"]


def test_a_comparison_past_its_time_limit_is_504(live):
    """The limit is for all arms together."""
    live.chat("load it", model="slow")
    messages = [{"role": "user", "content": "w " * 200}]
    body = {"messages": messages, "arms": [{"model": "slow"}] * 2, "timeout_s": 0.2}
    response = live.post("/v1/compare", body)
    assert response.status_code == 504
    assert response.json()["error"]["code"] == "deadline_exceeded"


def test_an_isolated_arm_says_how_long_it_waited(live):
    """A concurrent one waits for nobody."""
    isolated = ask(live, {"model": "echo"}, {"model": "echo"}).json()
    assert all(arm["waited_ms"] >= 0 for arm in isolated["arms"])
    together = ask(live, {"model": "echo"}, {"model": "echo"}, mode="concurrent").json()
    assert [arm["waited_ms"] for arm in together["arms"]] == [None, None]
