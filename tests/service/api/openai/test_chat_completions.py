"""Chat completions: what clients send is understood, what they read is there."""

import json

import pytest


def messages(text="one two three"):
    return [{"role": "user", "content": text}]


def test_an_answer_has_the_shape_that_clients_read(live):
    """Ids, role, text, reason and usage."""
    body = live.chat("one two three").json()
    assert body["object"] == "chat.completion"
    assert body["model"] == "echo"
    (choice,) = body["choices"]
    assert choice["message"] == {"role": "assistant", "content": "one two three", "refusal": None}
    assert (choice["index"], choice["finish_reason"], choice["logprobs"]) == (0, "stop", None)
    usage = body["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


def test_an_answer_carries_its_cost(live):
    """`metrics` with times, tokens and state, and llama.cpp's `timings`."""
    body = live.chat().json()
    metrics = body["metrics"]
    for name in ("ttft_ms", "tpot_ms", "queue_ms", "prefill_ms", "decode_ms", "e2e_ms"):
        assert metrics[name] >= 0
    assert set(metrics["state"]) == {
        "attention_kv_bytes", "window_kv_bytes", "ssm_state_bytes", "conv_state_bytes",
        "snapshot_bytes", "reserved_bytes",
    }  # fmt: skip
    assert body["timings"]["predicted_n"] == body["usage"]["completion_tokens"]
    parts = sum(metrics[f"{part}_ms"] for part in ("preprocess", "queue", "prefill", "decode"))
    assert parts == pytest.approx(metrics["e2e_ms"])


def test_the_headers_say_who_answered_and_why(live):
    """And `x-request-id` is the record's key."""
    response = live.chat()
    assert response.headers["x-served-model"] == "echo"
    assert response.headers["x-route-policy"] == "direct"
    record = live.record(response.headers["x-request-id"])
    assert (record["status"], record["model"]) == ("ok", "echo")


def test_a_variant_is_asked_for_by_name(live):
    """`model:variant`; record and answer name both."""
    response = live.chat(model="echo:half")
    assert response.json()["model"] == "echo:half"
    record = live.record(response.headers["x-request-id"])
    assert (record["model"], record["variant"]) == ("echo", "half")


def test_null_is_the_same_as_leaving_a_field_out(live):
    """GuideLLM sends `stop: null`; others send null for whatever they do not use."""
    fields = [
        "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty",
        "frequency_penalty", "logit_bias", "seed", "max_tokens", "max_completion_tokens",
        "min_tokens", "ignore_eos", "stop", "stream", "stream_options", "logprobs", "top_logprobs",
        "user", "n", "tools", "tool_choice", "response_format", "audio", "metadata",
        "reasoning_effort", "continue_final_message",
    ]  # fmt: skip
    response = live.chat(**dict.fromkeys(fields))
    assert response.status_code == 200
    assert response.json()["choices"][0]["message"]["content"] == "one two three"


def test_unknown_fields_are_accepted(live):
    """Open WebUI passes on whatever an administrator typed."""
    assert live.chat(mirostat=2, whatever={"a": [1]}).status_code == 200


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n", 2),
        ("tools", [{"type": "function"}]),
        ("tool_choice", "required"),
        ("response_format", {"type": "json_object"}),
        ("best_of", 2),
        ("audio", {"voice": "x"}),
        ("modalities", ["text", "audio"]),
        ("reasoning_effort", "high"),
        ("chat_template", "{{ x }}"),
        ("prediction", {"type": "content"}),
    ],
)
def test_known_fields_that_are_not_supported_are_refused_by_name(live, field, value):
    """Ignoring them would answer another question than was asked."""
    response = live.chat(**{field: value})
    assert response.status_code == 400
    error = response.json()["error"]
    assert (error["param"], error["code"]) == (field, "unsupported_parameter")
    assert field in error["message"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n", 1),
        ("tools", []),
        ("tool_choice", "none"),
        ("response_format", {"type": "text"}),
        ("modalities", ["text"]),
        ("store", False),
        ("stop", []),
        ("logit_bias", {}),
        ("logit_bias", {"5": 0.0}),
        ("top_k", -1),
        ("top_k", 0),
        ("seed", -1),
    ],
)
def test_values_that_change_nothing_are_accepted(live, field, value):
    """Clients send their defaults."""
    assert live.chat(**{field: value}).status_code == 200


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model", "m" * 257),
        ("temperature", -0.1),
        ("temperature", 2.1),
        ("top_p", 0),
        ("top_p", 1.1),
        ("top_k", -2),
        ("min_p", 1.5),
        ("presence_penalty", 3),
        ("frequency_penalty", -3),
        ("repetition_penalty", 0),
        ("max_tokens", 0),
        ("max_tokens", -5),
        ("max_completion_tokens", 0),
        ("max_tokens", 10**30),
        ("min_tokens", -1),
        ("top_logprobs", 21),
        ("seed", 2**63),
        ("stop", [""]),
        ("stop", ["x"] * 17),
        ("logit_bias", {"5": 101}),
        ("messages", []),
        ("temperature", "0.1"),
        ("stream", "true"),
        ("stream", 1),
        ("n", True),
        ("max_tokens", 5.0),
        ("max_tokens", "5"),
        ("logprobs", 2),
        ("stream_options", {"include_usage": True}),
        ("echo", True),
        ("prompt", "x"),
        ("functions", [{"name": "f"}]),
        ("function_call", "auto"),
        ("tool_call_id", "1"),
    ],
)
def test_values_out_of_range_are_refused_by_name(live, field, value):
    """400 with the parameter, never 422 and never clamped."""
    response = live.chat(**{field: value})
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert error["param"].split("[")[0].split(".")[0].split("...")[0] == field


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_both_names_limit_the_answer(live, name):
    """`max_tokens` and what OpenAI calls it now."""
    choice = live.chat("one two three four", **{name: 2}).json()["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("one two", "length")


def test_of_two_limits_the_new_name_wins(live):
    """As LangChain means it."""
    body = live.chat("one two three", max_tokens=3, max_completion_tokens=1).json()
    assert body["usage"]["completion_tokens"] == 1


def test_content_may_come_in_text_parts(live):
    """Parts of one message are lines of one text."""
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    body = live.post(
        "/v1/chat/completions",
        {"model": "echo", "messages": [{"role": "user", "content": parts}]},
    ).json()
    assert body["choices"][0]["message"]["content"] == "one\ntwo"


@pytest.mark.parametrize(
    ("message", "param", "code"),
    [
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]},
            "messages[0].content[0].type",
            "unsupported_parameter",
        ),
        ({"role": "user", "content": [{"type": "text"}]}, "messages[0].content[0].text",
         "invalid_request"),
        ({"role": "user"}, "messages[0].content", "invalid_request"),
        ({"role": "judge", "content": "x"}, "messages[0].role", "invalid_request"),
        ({"content": "x"}, "messages[0].role", "invalid_request"),
        ({"role": "assistant", "content": None, "tool_calls": [{"id": "1", "function": {}}]},
         "messages[0].tool_calls", "unsupported_parameter"),
        ({"role": "tool", "content": "5", "tool_call_id": "1"},
         "messages[0].tool_call_id", "unsupported_parameter"),
        ({"role": "assistant", "content": None, "function_call": {"name": "f"}},
         "messages[0].function_call", "unsupported_parameter"),
    ],
)  # fmt: skip
def test_messages_that_cannot_be_understood_are_refused_where_they_are_wrong(
    live, message, param, code
):
    """The path to the fault is the parameter."""
    response = live.post("/v1/chat/completions", {"model": "echo", "messages": [message]})
    assert response.status_code == 400
    error = response.json()["error"]
    assert (error["param"], error["code"]) == (param, code)


def test_all_roles_are_understood(live):
    """`developer` is the new name of `system`."""
    roles = ("system", "developer", "user", "assistant", "tool", "user")
    turns = [{"role": role, "content": "hi", "name": "ann"} for role in roles]
    assert (
        live.post("/v1/chat/completions", {"model": "echo", "messages": turns}).status_code == 200
    )


def test_an_answer_can_be_continued(live):
    """Only the assistant's own words."""
    turns = [*messages(), {"role": "assistant", "content": "so far"}]
    body = {"model": "echo", "messages": turns, "continue_final_message": True}
    assert live.post("/v1/chat/completions", body).status_code == 200
    refused = live.chat(continue_final_message=True)
    assert refused.json()["error"]["param"] == "continue_final_message"


def test_log_probabilities_come_with_their_bytes(live):
    """The chosen tokens with their alternatives."""
    choice = live.chat("one two", logprobs=True, top_logprobs=2).json()["choices"][0]
    first = choice["logprobs"]["content"][0]
    assert (first["token"], first["logprob"], bytes(first["bytes"])) == ("one", 0.0, b"one")
    assert first["top_logprobs"][0]["token"] == "one"


def test_alternatives_without_log_probabilities_make_no_sense(live):
    """As OpenAI refuses it."""
    assert live.chat(top_logprobs=2).json()["error"]["param"] == "top_logprobs"


def test_a_prompt_that_does_not_fit_has_openais_words_and_code(live):
    """Clients match both."""
    response = live.chat("word " * 200, model="other")
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["code"] == "context_length_exceeded"
    assert error["message"].startswith("This model's maximum context length is 64 tokens.")


def test_an_answer_longer_than_the_operator_allows_is_refused(live):
    """The limit is named."""
    error = live.chat(max_tokens=5000).json()["error"]
    assert error["param"] == "max_tokens"
    assert "4096" in error["message"]


def test_the_path_can_name_the_model(live):
    """For harnesses that send any model name, or none."""
    response = live.post("/m/other/v1/chat/completions", {"messages": messages()})
    assert response.json()["model"] == "other"


def test_a_request_without_a_model_is_refused(live):
    """There is no default model to fall back to silently."""
    response = live.post("/v1/chat/completions", {"messages": messages()})
    assert response.json()["error"]["param"] == "model"


def test_the_callers_id_is_a_label(live):
    """Two requests with the same id are two records with ids of our own."""
    ids = set()
    for _ in range(2):
        response = live.post(
            "/v1/chat/completions",
            {"model": "echo", "messages": messages()},
            headers={"X-Request-Id": "mine"},
        )
        ids.add(response.headers["x-request-id"])
        assert live.record(response.headers["x-request-id"])["client_request_id"] == "mine"
    assert len(ids) == 2


def test_a_fallback_route_answers_with_its_first_arm_that_can(live):
    """The header says who it was, the record why."""
    response = live.chat(model="chain")
    assert response.status_code == 200
    assert response.headers["x-served-model"] == response.json()["model"] == "echo"
    assert response.headers["x-route-policy"] == "fallback"
    reason = live.record(response.headers["x-request-id"])["route_reason"]
    assert "broken: " in reason


@pytest.mark.parametrize(
    "identity",
    [{"user": "ann"}, {"headers": {"X-OpenWebUI-Chat-Id": "c1"}}, {"headers": {"X-Session": "s"}}],
)
def test_a_weighted_route_keeps_a_client_on_its_arm(live, identity):
    """By `user`, Open WebUI's chat, or the route's own header."""
    headers, fields = identity.get("headers"), {k: v for k, v in identity.items() if k == "user"}
    body = {"model": "half-half", "messages": messages()} | fields
    served = {
        live.post("/v1/chat/completions", body, headers=headers).headers["x-served-model"]
        for _ in range(6)
    }
    assert len(served) == 1


def test_content_is_not_stored_by_default(live):
    """A canary in prompt and answer is nowhere in the record."""
    response = live.chat("canary-4711")
    record = live.record(response.headers["x-request-id"])
    assert "canary-4711" not in json.dumps(record)
