"""The unmodified openai client against a real socket: what it parses is what its users see."""

import asyncio

import openai
import pytest

#: Of "one two three" for the echo engine: four pieces and the end of sequence.
TOKENS = 5
MESSAGES = [{"role": "user", "content": "one two three"}]


@pytest.fixture
def client(live):
    with openai.OpenAI(base_url=f"{live.base_url}/v1", api_key="none", max_retries=0) as made:
        yield made


def test_a_chat_turn(client):
    """Text, reason, usage, and our own fields beside them."""
    answer = client.chat.completions.create(model="echo", messages=MESSAGES)
    assert answer.choices[0].message.content == "one two three"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.total_tokens > 0
    assert answer.model_extra["metrics"]["ttft_ms"] > 0
    assert answer.model_extra["timings"]["predicted_n"] == answer.usage.completion_tokens


def test_the_request_id_leads_to_the_record(client, live):
    """`_request_id` is the key."""
    answer = client.chat.completions.create(model="echo", messages=MESSAGES)
    assert live.record(answer._request_id)["status"] == "ok"


def test_a_streamed_chat_turn(client):
    """Every chunk has a choice, and the last one the cost."""
    stream = client.chat.completions.create(model="echo", messages=MESSAGES, stream=True)
    chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "one two three"
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert chunks[-1].model_extra["metrics"]["completion_tokens"] == TOKENS


def test_a_stream_with_usage(client):
    """One chunk without choices, the last."""
    stream = client.chat.completions.create(
        model="echo", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
    )
    *others, last = list(stream)
    assert last.choices == []
    assert last.usage.completion_tokens == TOKENS
    assert all(chunk.usage is None for chunk in others)


def test_the_accumulating_stream_helper(client):
    """`.stream()` rebuilds the whole answer."""
    with client.chat.completions.stream(model="echo", messages=MESSAGES) as stream:
        stream.until_done()
        answer = stream.get_final_completion()
    assert answer.choices[0].message.content == "one two three"


def test_an_answer_cut_by_its_limit_raises_there_as_with_openai(client):
    """The client's own rule for `length`; the answer itself is a success."""
    stream = client.chat.completions.stream(model="echo", messages=MESSAGES, max_tokens=2)
    with stream as events, pytest.raises(openai.LengthFinishReasonError):
        events.get_final_completion()


def test_log_probabilities(client):
    """Parsed into the client's own types."""
    answer = client.chat.completions.create(
        model="echo", messages=MESSAGES, logprobs=True, top_logprobs=1
    )
    first = answer.choices[0].logprobs.content[0]
    assert (first.token, first.top_logprobs[0].token) == ("one", "one")


def test_completions(client):
    """Whole, several, and streamed."""
    whole = client.completions.create(model="echo", prompt=["one", "two three"], logprobs=1)
    assert [choice.text for choice in whole.choices] == ["one", "two three"]
    assert whole.choices[1].logprobs.token_logprobs[0] == 0
    stream = client.completions.create(model="echo", prompt="one two", stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == "one two"


def test_models(client):
    """Listed, found, and not found."""
    assert {"echo", "echo:half", "chain"} <= {model.id for model in client.models.list()}
    assert client.models.retrieve("echo").owned_by == "triptych"
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("some/other-model")
    assert caught.value.code == "model_not_found"


def test_a_bad_request_is_one(client):
    """With parameter, code and id."""
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="echo", messages=MESSAGES, n=3)
    error = caught.value
    assert (error.param, error.code) == ("n", "unsupported_parameter")
    assert error.request_id.startswith("req-")


def test_a_context_that_overflows_is_a_bad_request(client):
    """With the code that agents look for."""
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="other", prompt="word " * 500)
    assert caught.value.code == "context_length_exceeded"


def test_an_unknown_model_is_not_found(client):
    """For chats, too."""
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="nobody", messages=MESSAGES)


def test_a_failed_load_is_raised_with_its_reason(client):
    """The client has no class of its own for 424."""
    with pytest.raises(openai.APIStatusError, match="no memory for it") as caught:
        client.chat.completions.create(model="broken", messages=MESSAGES)
    assert caught.value.status_code == 424


def test_a_model_that_is_not_here_is_not_tried_again(live):
    """404 saves the client its retries."""
    with (
        openai.OpenAI(base_url=f"{live.base_url}/v1", api_key="none", max_retries=5) as client,
        pytest.raises(openai.NotFoundError, match="models pull"),
    ):
        client.chat.completions.create(model="phi-3.5-mini-instruct", messages=MESSAGES)
    records = live.get("/v1/records?requested_model=phi-3.5-mini-instruct").json()["data"]
    assert len(records) == 1


def test_an_error_in_the_middle_of_a_stream_is_raised(client):
    """Half an answer is never taken for a whole one."""
    stream = client.chat.completions.create(model="failing", messages=MESSAGES, stream=True)
    with pytest.raises(openai.APIError) as caught:
        list(stream)
    assert caught.value.code == "engine_failed"


def test_closing_a_stream_cancels_the_request(client, live):
    """At once, with its place in the queue."""
    text = [{"role": "user", "content": "word " * 500}]
    with client.chat.completions.create(model="slow", messages=text, stream=True) as stream:
        record_id = stream.response.headers["x-request-id"]
        next(iter(stream))
    live.until(lambda: live.record(record_id)["status"] == "cancelled")
    assert live.requests == 0


def test_the_async_client_with_many_requests_over_several_models(live):
    """Sixteen at once, each with its own text."""

    async def main():
        async with openai.AsyncOpenAI(base_url=f"{live.base_url}/v1", api_key="none") as client:

            async def ask(number):
                stream = await client.chat.completions.create(
                    model=("echo", "other", "slow")[number % 3],
                    messages=[{"role": "user", "content": f"this is client {number}"}],
                    stream=True,
                )
                return "".join([c.choices[0].delta.content or "" async for c in stream])

            return await asyncio.gather(*(ask(number) for number in range(16)))

    assert asyncio.run(main()) == [f"this is client {number}" for number in range(16)]
