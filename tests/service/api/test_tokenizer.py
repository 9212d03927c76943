"""Tokenizers over HTTP, at the root and under a model's own address."""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest


def test_tokens_and_back(live):
    """What lm-eval's remote tokenizer asks for."""
    text = "Grüße, €"
    tokens = live.post("/tokenize", {"model": "echo", "prompt": text}).json()
    assert tokens["count"] == len(tokens["tokens"])
    assert tokens["max_model_len"] == 4096
    back = live.post("/detokenize", {"model": "echo", "tokens": tokens["tokens"]}).json()
    assert back["prompt"] == text


def test_a_conversation_is_tokenized_with_its_template(live):
    """As many tokens as the answer's usage counts."""
    messages = [{"role": "user", "content": "one two"}]
    tokens = live.post("/tokenize", {"model": "echo", "messages": messages}).json()
    usage = live.chat("one two").json()["usage"]
    assert tokens["count"] == usage["prompt_tokens"]


def test_a_model_has_a_tokenizer_address_of_its_own(live):
    """lm-eval sends no model name."""
    tokens = live.post("/m/other/tokenize", {"prompt": "x", "add_special_tokens": False}).json()
    assert tokens["model"] == "other"
    assert live.get("/m/other/tokenizer_info").json()["chat_template"] is None
    back = live.post("/m/other/detokenize", {"tokens": tokens["tokens"]}).json()
    assert back == {"prompt": "x", "model": "other"}


def test_with_one_model_loaded_no_name_is_needed(serve):
    """With two, the error says how to name one."""
    live = serve()
    assert live.post("/tokenize", {"prompt": "x"}).json()["model"] == "echo"
    live.chat(model="other")
    error = live.post("/tokenize", {"prompt": "x"}).json()["error"]
    assert error["param"] == "model"
    assert "/m/MODEL" in error["message"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/tokenize", {"model": "echo"}),
        ("/tokenize", {"model": "echo", "prompt": "x", "messages": [{"role": "user"}]}),
        ("/tokenize", {"model": "echo", "prompt": 5}),
        ("/detokenize", {"model": "echo"}),
        ("/detokenize", {"model": "echo", "tokens": ["x"]}),
        ("/detokenize", {"model": "echo", "tokens": [-1]}),
        ("/detokenize", {"model": "echo", "tokens": [2**52]}),
        ("/detokenize", {"model": "echo", "tokens": ["1"]}),
        ("/detokenize", {"model": "echo", "tokens": [1], "prompt": "x"}),
        ("/tokenize", {"model": "echo", "prompt": "x", "add_special_tokens": "false"}),
        ("/tokenize", {"model": "echo", "prompt": "x", "add_generation_prompt": False}),
        ("/tokenize", {"model": "echo", "prompt": "x", "return_token_strs": True}),
    ],
)
def test_wrong_questions_are_400(live, path, body):
    """VLLM answered 500 to some of these."""
    assert live.post(path, body).status_code == 400


def test_a_token_beyond_the_vocabulary_is_named(live):
    """The field is `tokens`: `prompt` is none of this endpoint's."""
    answer = live.post("/detokenize", {"model": "echo", "tokens": [2**52]})
    assert answer.json()["error"]["param"] == "tokens"


def test_an_unknown_model_is_404(live):
    """Under every address."""
    assert live.post("/tokenize", {"model": "nobody", "prompt": "x"}).status_code == 404
    assert live.get("/m/nobody/tokenizer_info").status_code == 404
    assert live.get("/tokenizer_info?model=nobody").status_code == 404


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/tokenize", {"model": "echo", "prompt": "x"}),
        ("/detokenize", {"model": "echo", "tokens": []}),
    ],
)
def test_tokenizing_waits_for_an_isolated_measurement(live, path, body):
    """It disturbed what was compared."""

    async def measure():
        async with live.application.chat.gate.exclusive(max_wait_s=5):
            holding.set()
            await asyncio.sleep(0.3)
        return time.monotonic()

    holding = threading.Event()
    with ThreadPoolExecutor() as pool:
        measured = pool.submit(live.call, measure())
        assert holding.wait(10)
        assert live.post(path, {"model": "echo", **body}).status_code == 200
        answered_s = time.monotonic()
        assert measured.result() <= answered_s
