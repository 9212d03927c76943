"""The three reference models, asked by the unmodified OpenAI client."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import openai
import pytest

TRIO = ("reference-transformer", "reference-ssm", "reference-hybrid")
QUESTION = [{"role": "user", "content": "I am looking for a restaurant in San Jose."}]


@pytest.fixture
def client(trio):
    with openai.OpenAI(base_url=f"{trio.base_url}/v1", api_key="none") as client:
        yield client


@pytest.mark.parametrize("model", TRIO)
def test_a_reference_model_answers_a_chat(client, model):
    """Each reference model answers in words and stops by itself."""
    answer = client.chat.completions.create(model=model, messages=QUESTION, temperature=0)

    assert answer.choices[0].finish_reason == "stop"
    assert len(answer.choices[0].message.content.split()) >= 3
    assert answer.usage.completion_tokens > 1


@pytest.mark.parametrize("model", TRIO)
def test_a_stream_says_what_the_whole_answer_says(client, model):
    """The streamed pieces of a greedy answer join to the answer that comes whole."""
    whole = client.chat.completions.create(model=model, messages=QUESTION, temperature=0)
    pieces = client.chat.completions.create(
        model=model, messages=QUESTION, temperature=0, stream=True
    )

    text = "".join(chunk.choices[0].delta.content or "" for chunk in pieces if chunk.choices)

    assert whole.choices[0].message.content == text


@pytest.mark.parametrize(
    ("model", "present", "absent"),
    [
        ("reference-transformer", "attention_kv_bytes", "ssm_state_bytes"),
        ("reference-ssm", "ssm_state_bytes", "attention_kv_bytes"),
        ("reference-hybrid", "ssm_state_bytes", "window_kv_bytes"),
    ],
)
def test_an_answer_tells_its_state_bytes(client, model, present, absent):
    """Each family reports the kind of state that it keeps, and none that it does not."""
    answer = client.chat.completions.create(model=model, messages=QUESTION, temperature=0)
    state = answer.model_extra["metrics"]["state"]

    assert state[present] > 0
    assert not state[absent]


def test_sixteen_requests_over_three_models_equal_themselves_alone(client):
    """Neighbours in the batch do not change a greedy answer, and every request succeeds."""

    def ask(model: str) -> str:
        answer = client.chat.completions.create(
            model=model, messages=QUESTION, temperature=0, max_tokens=24
        )
        return answer.choices[0].message.content

    alone = {model: ask(model) for model in TRIO}
    models = [TRIO[number % 3] for number in range(16)]
    with ThreadPoolExecutor(16) as pool:
        together = list(pool.map(ask, models))

    assert [alone[model] for model in models] == together


def test_hanging_up_leaves_a_cancelled_row_and_a_free_slot(trio, client):
    """A client that hangs up in the middle of a stream is recorded and gives its slot back."""
    stream = client.chat.completions.with_raw_response.create(
        model="reference-ssm",
        messages=QUESTION,
        stream=True,
        max_tokens=1500,
        extra_body={"ignore_eos": True},
    )
    request_id = stream.headers["x-request-id"]
    chunks = iter(stream.parse())
    next(chunks)
    stream.http_response.close()

    def slots_used() -> int:
        cards = httpx.get(f"{trio.base_url}/v1/models").json()["data"]
        return next(c for c in cards if c["id"] == "reference-ssm")["memory"]["slots_used"]

    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        record = httpx.get(f"{trio.base_url}/v1/records/{request_id}").json()
        if record["status"] == "cancelled" and slots_used() == 0:
            return
        time.sleep(0.05)
    raise AssertionError((record["status"], slots_used()))


def test_the_http_process_imports_no_torch(trio):
    """The process that answers HTTP has never mapped torch's library."""
    maps = Path(f"/proc/{trio.process.pid}/maps").read_text()

    assert "libtorch" not in maps
