"""Completions: prompts of every kind, and the numbers that evaluation harnesses score by."""

import pytest

from service.core.errors import StoreUnavailable


def complete(live, prompt, path="/v1/completions", **fields):
    return live.post(path, {"model": "echo", "prompt": prompt} | fields)


def token_ids(live, text):
    return live.post("/tokenize", {"model": "echo", "prompt": text}).json()["tokens"]


def test_a_text_is_gone_on_with(live):
    """One choice with its text."""
    body = complete(live, "one two").json()
    assert body["object"] == "text_completion"
    (choice,) = body["choices"]
    assert (choice["text"], choice["index"], choice["finish_reason"]) == ("one two", 0, "stop")
    assert body["metrics"]["completion_tokens"] == body["usage"]["completion_tokens"]


def test_token_ids_are_a_prompt(live):
    """As lm-eval sends them."""
    ids = token_ids(live, "one two")
    assert complete(live, ids).json()["choices"][0]["text"] == "one two"


@pytest.mark.parametrize("as_ids", [False, True])
def test_several_prompts_are_answered_in_their_order(live, as_ids):
    """Each with its own record, found under the id with its number."""
    texts = ["one two", "three", "four five six"]
    prompts = [token_ids(live, text) for text in texts] if as_ids else texts
    response = complete(live, prompts)
    body = response.json()
    assert [choice["text"] for choice in body["choices"]] == texts
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2]
    ids = [choice["metrics"]["request_id"] for choice in body["choices"]]
    assert ids[0] == response.headers["x-request-id"]
    assert [live.record(each)["status"] for each in ids] == ["ok"] * 3
    assert body["usage"]["completion_tokens"] == sum(
        choice["metrics"]["completion_tokens"] for choice in body["choices"]
    )


def test_one_wrong_prompt_fails_the_request(live):
    """And the other prompts' work is given up: nothing runs on."""
    response = complete(live, ["one", "word " * 200], model="other")
    assert response.json()["error"]["code"] == "context_length_exceeded"
    assert live.requests == 0


@pytest.mark.parametrize(
    ("prompt", "fields", "param", "code"),
    [
        ([], {}, "prompt", "invalid_request"),
        (["a", 1], {}, "prompt", "invalid_request"),
        ([[1], 2], {}, "prompt", "invalid_request"),
        (["a"] * 257, {}, "prompt", "invalid_request"),
        (None, {}, "prompt", "invalid_request"),
        ({"text": "a"}, {}, "prompt", "invalid_request"),
        (["a", "b"], {"stream": True}, "prompt", "unsupported_parameter"),
        ("a", {"suffix": "b"}, "suffix", "unsupported_parameter"),
        ("a", {"best_of": 3}, "best_of", "unsupported_parameter"),
        ("a", {"logprobs": 21}, "logprobs", "invalid_request"),
        ("a", {"logprobs": True}, "logprobs", "invalid_request"),
        ([-1], {}, "prompt[0]", "invalid_request"),
    ],
)
def test_what_cannot_be_answered_is_refused_by_name(live, prompt, fields, param, code):
    """400 with parameter and code."""
    response = complete(live, prompt, **fields)
    assert response.status_code == 400
    error = response.json()["error"]
    assert (error["param"], error["code"]) == (param, code)


def test_echo_with_logprobs_is_what_lm_eval_scores_by(live):
    """Prompt and answer in one list, null for the first token, top-1 equal to the token's own."""
    text = "one two three"
    context = len(token_ids(live, text))
    body = complete(
        live, token_ids(live, text), echo=True, logprobs=1, max_tokens=1, temperature=0, seed=1234
    ).json()
    choice = body["choices"][0]
    logprobs = choice["logprobs"]
    assert choice["text"] == text + "one"
    assert len(logprobs["tokens"]) == context + 1
    assert logprobs["token_logprobs"][0] is logprobs["top_logprobs"][0] is None
    for value, top in zip(
        logprobs["token_logprobs"][1:-1], logprobs["top_logprobs"][1:-1], strict=True
    ):
        assert max(top.values()) == value
    assert "".join(logprobs["tokens"]) == choice["text"]


def test_echo_without_logprobs_is_text_alone(live):
    """The prompt comes first."""
    choice = complete(live, "one", echo=True).json()["choices"][0]
    assert (choice["text"], choice["logprobs"]) == ("oneone", None)


def test_a_model_has_an_address_of_its_own(live):
    """A harness that can send no model name takes `/m/MODEL/v1/completions`."""
    body = complete(live, "one", path="/m/other/v1/completions", model="gpt2").json()
    assert body["model"] == "other"


def test_hidden_fields_of_load_tests_work(live):
    """`ignore_eos` with a number of tokens gives exactly that number."""
    body = complete(live, "one two", max_tokens=37, ignore_eos=True, stop=None).json()
    assert body["usage"]["completion_tokens"] == 37
    assert body["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize("fields", [{}, {"prompt": None}])
def test_a_completion_needs_a_prompt(live, fields):
    """Missing or null, the error says so in one sentence."""
    response = live.post("/v1/completions", {"model": "echo", **fields})
    assert response.status_code == 400
    error = response.json()["error"]
    assert (error["message"], error["param"]) == ("`prompt` is missing.", "prompt")


def test_a_prompt_that_is_refused_leaves_no_other_running(serve):
    """When the second of three could not be recorded, the first went on unread."""
    live = serve()
    live.chat("load it", model="slow")
    recorder = live.application.chat.recorder
    honest = recorder.accept

    def accept(request):
        if request.request_id.endswith("-1"):
            raise StoreUnavailable("the disk is full")
        return honest(request)

    recorder.accept = accept
    response = complete(live, ["w " * 200] * 3, model="slow")
    assert (response.status_code, response.json()["error"]["code"]) == (503, "store_unavailable")
    live.until(lambda: live.requests == 0, limit_s=2)
