"""Streams as clients read them: chunk by chunk, with one end, and cancelled at once."""

import json
import socket
import threading
import time

import httpx
import pytest


def stream(live, text="one two three", model="echo", path="/v1/chat/completions", **fields):
    """Status, headers and lines of a streamed answer."""
    asked = {"model": model, "stream": True} | fields
    asked |= (
        {"prompt": text}
        if path.endswith("/v1/completions")
        else {"messages": [{"role": "user", "content": text}]}
    )
    return live.post(path, asked)


def chunks_of(response):
    """The chunks; `[DONE]` must be the last event."""
    events = [line for line in response.text.split("\n\n") if line and not line.startswith(":")]
    assert all(event.startswith("data: ") for event in events)
    assert events[-1] == "data: [DONE]"
    return [json.loads(event.removeprefix("data: ")) for event in events[:-1]]


def raw_request(live, body):
    """A socket on which a request was sent: closing it is hanging up."""
    host, port = live.socket.getsockname()
    connection = socket.create_connection((host, port))
    content = json.dumps(body).encode()
    connection.sendall(
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        + b"content-length: %d\r\n\r\n" % len(content)
        + content
    )
    return connection


def test_a_stream_is_made_for_its_readers(live):
    """Event stream, not cached, not held back by proxies."""
    headers = stream(live).headers
    assert headers["content-type"].startswith("text/event-stream")
    assert headers["cache-control"] == "no-cache"
    assert headers["x-accel-buffering"] == "no"
    assert headers["x-served-model"] == "echo"
    assert headers["x-route-policy"] == "direct"
    assert headers["x-request-id"].startswith("req-")


def test_the_first_chunk_has_role_and_text(live):
    """VLLM's bench takes an early chunk with a role alone for the first token."""
    first, second, *_ = chunks_of(stream(live))
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": "one"}
    assert second["choices"][0]["delta"] == {"content": " two"}


def test_all_chunks_have_the_same_id_time_and_model(live):
    """LiteLLM's rebuild fails otherwise."""
    keys = {(c["id"], c["created"], c["model"], c["object"]) for c in chunks_of(stream(live))}
    assert len(keys) == 1


def test_a_streamed_text_equals_the_whole_one(live):
    """Same text, same reason."""
    chunks = chunks_of(stream(live, "a bb ccc dddd", stop="dd"))
    text = "".join(c["choices"][0]["delta"].get("content", "") for c in chunks)
    whole = live.chat("a bb ccc dddd", stop="dd").json()["choices"][0]
    assert text == whole["message"]["content"] == "a bb ccc "
    assert chunks[-1]["choices"][0]["finish_reason"] == whole["finish_reason"] == "stop"


def test_only_the_last_chunk_has_a_reason_and_the_cost(live):
    """Without usage asked for, no chunk has an empty list of choices either."""
    *others, last = chunks_of(stream(live))
    assert all(chunk["choices"][0]["finish_reason"] is None for chunk in others)
    assert not any({"usage", "metrics", "timings"} & set(chunk) for chunk in others)
    assert last["choices"][0]["finish_reason"] == "stop"
    assert last["metrics"]["completion_tokens"] == last["timings"]["predicted_n"] > 0
    assert "usage" not in last


def test_usage_comes_once_and_only_when_asked_for(live):
    """With no choices, after the reason; timings beside it, since Open WebUI adds chunks up."""
    *others, reason, last = chunks_of(stream(live, stream_options={"include_usage": True}))
    assert reason["choices"][0]["finish_reason"] == "stop"
    assert not any({"usage", "metrics", "timings"} & set(chunk) for chunk in (*others, reason))
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == last["timings"]["predicted_n"]
    assert last["metrics"]["request_id"]


def test_usage_can_come_with_every_chunk(live):
    """GuideLLM asks for it; the last one wins."""
    options = {"include_usage": True, "continuous_usage_stats": True}
    chunks = chunks_of(stream(live, stream_options=options))
    counts = [chunk["usage"]["completion_tokens"] for chunk in chunks]
    assert counts == sorted(counts)
    assert counts[0] == 1
    assert all(chunk["usage"]["prompt_tokens"] for chunk in chunks)


def test_an_operator_can_have_usage_always(serve):
    """For clients that need it and do not ask."""
    assert chunks_of(stream(serve(always_include_usage=True)))[-1]["usage"]


def test_an_answer_without_text_still_has_a_first_and_a_last_chunk(live):
    """One chunk that is both."""
    (only,) = chunks_of(stream(live, "x", stop="x"))
    assert only["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert only["choices"][0]["finish_reason"] == "stop"


def test_log_probabilities_are_not_lost_with_tokens_that_have_no_text_yet(live):
    """A character split over tokens brings the numbers of all its tokens."""
    text = "ab€€€ x"
    chunks = chunks_of(stream(live, text, logprobs=True))
    tokens = [
        token
        for chunk in chunks
        for token in (chunk["choices"][0]["logprobs"] or {"content": []})["content"]
    ]
    assert len(tokens) == chunks[-1]["metrics"]["completion_tokens"]


def test_the_record_is_final_when_done_is_read(live):
    """Ten times in a row: no race between the stream's end and its record."""
    for _ in range(10):
        response = stream(live)
        record = live.record(response.headers["x-request-id"])
        assert (record["phase"], record["status"]) == ("final", "ok")


def test_completions_stream_text(live):
    """With the prompt first where it is asked for."""
    response = stream(live, "one two", path="/v1/completions", echo=True, logprobs=1)
    chunks = chunks_of(response)
    assert "".join(c["choices"][0]["text"] for c in chunks) == "one twoone two"
    tokens = [t for c in chunks for t in (c["choices"][0]["logprobs"] or {"tokens": []})["tokens"]]
    offsets = [
        o
        for c in chunks
        for o in (c["choices"][0]["logprobs"] or {"text_offset": []})["text_offset"]
    ]
    assert offsets == [sum(map(len, tokens[:index])) for index in range(len(tokens))]
    assert {chunk["object"] for chunk in chunks} == {"text_completion"}


@pytest.mark.parametrize(
    ("model", "status", "code"),
    [
        ("nobody", 404, "model_not_found"),
        ("broken", 424, "model_not_ready"),
        ("dead", 503, "engine_failed"),
    ],
)
def test_an_early_failure_has_its_own_status(live, model, status, code):
    """Nothing was sent yet, so the client gets a true error."""
    response = stream(live, model=model)
    assert response.status_code == status
    assert response.json()["error"]["code"] == code


def test_a_late_failure_is_an_event_and_the_stream_ends_without_done(live):
    """The openai client raises on it, and no client takes half an answer for a whole one."""
    response = stream(live, model="failing")
    events = [event for event in response.text.split("\n\n") if event]
    assert response.status_code == 200
    assert "[DONE]" not in response.text
    error = json.loads(events[-1].removeprefix("data: "))["error"]
    assert error["code"] == "engine_failed"
    assert live.record(response.headers["x-request-id"])["status"] == "failed"


def test_silence_is_filled_with_comments(serve):
    """While the first token takes its time: proxies cut silent streams."""
    response = stream(serve(keepalive_s=0.1), model="late")
    head, _, rest = response.text.partition("data: ")
    assert head.count(": keep-alive\n\n") >= 2
    assert "one" in rest


@pytest.mark.parametrize("streamed", [True, False])
def test_hanging_up_cancels_at_once(live, streamed):
    """Streamed or whole, while tokens come: the record says cancelled, the place is free."""
    live.chat("load it", model="slow")
    messages = [{"role": "user", "content": "word " * 300}]
    connection = raw_request(live, {"model": "slow", "messages": messages, "stream": streamed})
    live.until(lambda: live.requests == 1)
    time.sleep(0.1)
    connection.close()
    hung_up_s = time.monotonic()
    live.until(lambda: live.requests == 0)
    assert time.monotonic() - hung_up_s < 1
    newest = live.get("/v1/records?model=slow&limit=1").json()["data"][0]
    assert newest["status"] == "cancelled"
    assert 0 < newest["completion_tokens"] < 300


def test_hanging_up_before_the_first_token_cancels_too(live):
    """Also while the request waits for its slot."""
    body = {"model": "single", "messages": [{"role": "user", "content": "word " * 300}]}
    running = raw_request(live, body | {"stream": True})
    live.until(lambda: live.requests == 1)
    waiting = raw_request(live, body | {"stream": True})
    live.until(lambda: live.requests == 2)
    waiting.close()
    live.until(lambda: live.requests == 1)
    running.close()
    live.until(lambda: live.requests == 0)


def test_hanging_up_during_a_load_leaves_the_load_alone(serve):
    """The next request finds the model loaded."""
    live = serve()
    body = {"model": "heavy", "messages": [{"role": "user", "content": "hi"}], "stream": True}
    connection = raw_request(live, body)
    live.until(lambda: live.get("/v1/models/heavy").json()["status"]["value"] == "loading")
    connection.close()
    live.until(lambda: live.requests == 0)
    live.until(lambda: live.get("/v1/models/heavy").json()["status"]["value"] == "loaded")


def test_a_load_is_waited_for_and_recorded_apart(serve):
    """The answer is cold, and its time on the load is known."""
    live = serve()
    metrics = live.chat(model="heavy").json()["metrics"]
    assert metrics["cold"] is True
    assert metrics["load_ms"] >= 600
    assert live.chat(model="heavy").json()["metrics"]["cold"] is False


def test_many_streams_at_once_are_all_whole(live):
    """Sixteen clients, sixteen whole answers, sixteen records."""
    results = [None] * 16

    def ask(number):
        results[number] = stream(live, f"client {number} says hello", model="slow")

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, response in enumerate(results):
        texts = [c["choices"][0]["delta"].get("content", "") for c in chunks_of(response)]
        assert "".join(texts) == f"client {number} says hello"


def test_a_random_storm_of_hang_ups_leaves_nothing_behind(live):
    """60 clients leave at different moments: afterwards no request waits or runs."""
    body = {"model": "slow", "messages": [{"role": "user", "content": "a b c d e f"}]}
    connections = [raw_request(live, body | {"stream": number % 2 == 0}) for number in range(60)]
    for number, connection in enumerate(connections):
        time.sleep(0.004 * (number % 3))
        connection.close()
    live.until(lambda: live.requests == 0)
    running = live.get("/v1/records?status=running").json()["data"]
    assert running == []


def test_a_full_queue_is_503_with_a_time_to_come_back(serve):
    """One place, taken: the second client is told when to try again."""
    live = serve(max_queued_requests=1)
    with httpx.Client(base_url=live.base_url) as client:
        body = {"model": "slow", "messages": [{"role": "user", "content": "w " * 100}]}
        with client.stream("POST", "/v1/chat/completions", json=body | {"stream": True}):
            live.until(lambda: live.requests == 1)
            response = live.chat(model="slow")
            assert response.status_code == 503
            assert response.json()["error"]["code"] == "overloaded"
            assert int(response.headers["retry-after"]) >= 1
    live.until(lambda: live.requests == 0)
