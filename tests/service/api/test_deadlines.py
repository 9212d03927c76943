"""Time limits of requests: in the body, in a header, and the operator's."""

import json
import time

import pytest

SLOW = "word " * 400


def ask(live, text=SLOW, model="slow", headers=None, **fields):
    body = {"model": model, "messages": [{"role": "user", "content": text}], **fields}
    return live.post("/v1/chat/completions", body, headers=headers or {})


def assert_late(live, response):
    assert response.status_code == 504
    assert response.json()["error"]["code"] == "deadline_exceeded"
    assert response.headers["x-should-retry"] == "false"
    record = live.record(response.headers["x-request-id"])
    assert (record["status"], record["error_code"]) == ("failed", "deadline_exceeded")


@pytest.mark.parametrize(
    ("headers", "fields"), [({}, {"timeout_s": 0.2}), ({"x-request-timeout": "0.2"}, {})]
)
def test_an_answer_that_takes_too_long_is_504(live, headers, fields):
    """The body's field or the header says how long; the engine is cancelled."""
    ask(live, "load it")
    began_s = time.monotonic()
    assert_late(live, ask(live, headers=headers, **fields))
    assert time.monotonic() - began_s < 2
    live.until(lambda: live.requests == 0)


def test_a_completion_has_a_limit_too(live):
    """The same field."""
    body = {"model": "slow", "prompt": SLOW, "timeout_s": 0.2}
    assert_late(live, live.post("/v1/completions", body))


def test_the_operators_limit_is_default_and_maximum(serve):
    """A client may only lower it."""
    live = serve(request_timeout_s=0.3, preload=("echo", "slow"))
    live.until(lambda: "slow" in live.get("/health").json()["loaded"])
    assert_late(live, ask(live))
    assert_late(live, ask(live, timeout_s=60))
    assert ask(live, "one two", model="echo").status_code == 200


def test_a_stream_past_its_limit_ends_with_an_error_event(live):
    """And without `[DONE]`, so that half an answer is not taken for a whole one."""
    ask(live, "load it")
    response = ask(live, stream=True, timeout_s=0.3)
    events = [event for event in response.text.split("\n\n") if event]
    assert response.status_code == 200
    assert json.loads(events[-1].removeprefix("data: "))["error"]["code"] == "deadline_exceeded"
    assert "[DONE]" not in response.text


@pytest.mark.parametrize("value", ["soon", "0", "-1", "nan", "inf", "1e9"])
def test_a_header_that_is_no_time_is_refused_by_name(live, value):
    """Not ignored: the client would wait without a limit."""
    response = ask(live, "hi", model="echo", headers={"x-request-timeout": value})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "x-request-timeout"


@pytest.mark.parametrize("value", [0, -1, 1e9])
def test_a_field_that_is_no_time_is_refused_by_name(live, value):
    """By the schema."""
    response = ask(live, "hi", model="echo", timeout_s=value)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "timeout_s"
