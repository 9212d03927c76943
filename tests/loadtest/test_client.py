"""The client measures streams as they come, however they are cut, and names what goes wrong."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator

import httpx
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.client import Client, Question, events
from loadtest.corpus import Message, Prompt
from loadtest.observation import Observation
from loadtest.plan import Sampling
from loadtest.run import connect

PROMPT = Prompt(id="p", messages=(Message(role="user", content="Wohin?"),))


def ask(url: str, model: str, *, timeout_s: float = 20, late_ms: float = 0) -> Observation:
    async def go() -> Observation:
        async with connect(url) as http:
            question = Question(
                number=3,
                client_request_id=f"test-{model}-{time.monotonic_ns()}",
                model=model,
                block=1,
                prompt=PROMPT,
                seed=1,
                planned_ns=time.monotonic_ns() - round(late_ms * 1e6),
            )
            return await Client(http, Sampling(max_tokens=4), timeout_s).ask(question)

    return asyncio.run(go())


def test_a_whole_answer_is_measured(running) -> None:
    """Times are ordered, tokens are the service's, bytes are those of the text."""
    seen = ask(running.url, "good")

    assert (seen.outcome, seen.error, seen.finish_reason) == ("ok", None, "stop")
    assert (seen.prompt_tokens, seen.completion_tokens, seen.chunks) == (7, 4, 4)
    assert seen.text_bytes == len("Grüße aus\u2028Köln!".encode())
    assert seen.planned_ns <= seen.sent_ns < seen.first_ns < seen.last_ns


def test_metrics_of_the_service_are_kept(running) -> None:
    """State, verdict and the service's own TTFT come with the last chunk."""
    seen = ask(running.url, "odd")

    assert seen.request_id == seen.server.request_id
    assert seen.server.ttft_ms == pytest.approx(10)
    assert seen.server.state["ssm_state_bytes"] == 24
    assert (seen.server.cold, seen.server.verified) == (False, False)


def test_times_count_from_the_planned_moment(running) -> None:
    """A request that is sent late has its lag in TTFT: a stalled client cannot look fast."""
    seen = ask(running.url, "good", late_ms=300)

    assert seen.send_lag_ms > 300
    assert seen.ttft_ms > 300
    assert seen.tpot_ms < 100


@pytest.mark.parametrize(
    ("model", "outcome", "error"),
    [
        ("busy", "refused", "HTTP 503 overloaded"),
        ("broken", "failed", "error event engine_failed"),
        ("cut", "failed", "stream ended without [DONE]"),
    ],
)
def test_what_goes_wrong_is_named(running, model: str, outcome: str, error: str) -> None:
    """Error statuses, error events and cut streams are told apart."""
    seen = ask(running.url, model)

    assert (seen.outcome, seen.error) == (outcome, error)


def test_a_silent_service_is_given_up(running) -> None:
    """A request without an answer ends at the time limit."""
    seen = ask(running.url, "stuck", timeout_s=0.2)

    assert (seen.outcome, seen.first_ns) == ("timeout", None)


def test_nobody_there_is_a_failure() -> None:
    """A refused connection is an observation like any other."""
    assert ask("http://127.0.0.1:9", "good").error == "ConnectError"


@pytest.mark.parametrize("tokens", [None, 0, 1])
def test_pace_needs_two_tokens(running, tokens: int | None) -> None:
    """With fewer than two tokens there is no time between tokens."""
    seen = msgspec.structs.replace(ask(running.url, "good"), completion_tokens=tokens)

    assert (seen.tpot_ms, seen.tokens_per_s) == (None, None)


@given(
    texts=st.lists(st.text(), max_size=5),
    cuts=st.lists(st.integers(0, 200), max_size=8),
    newline=st.sampled_from([b"\n", b"\r\n"]),
)
def test_events_survive_any_cut(texts: list[str], cuts: list[int], newline: bytes) -> None:
    """Payloads come out whole wherever the network cuts, comments are skipped."""
    payloads = [msgspec.json.encode(text) for text in texts]
    stream = b"".join(
        b": ping" + newline + b"data: " + payload + newline + newline for payload in payloads
    )
    edges = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    pieces = [stream[start:end] for start, end in itertools.pairwise(edges)]

    async def feed() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece

    async def read() -> list[bytes]:
        return [payload async for payload in events(feed())]

    assert asyncio.run(read()) == payloads


def test_the_request_says_what_the_plan_says() -> None:
    """Sampling, seed and `ignore_eos` are sent only as the plan asks."""
    bodies = []

    def remember(request: httpx.Request) -> httpx.Response:
        bodies.append(msgspec.json.decode(request.content))
        return httpx.Response(500)

    async def go() -> None:
        transport = httpx.MockTransport(remember)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as http:
            question = Question(
                number=0, client_request_id="c", model="m", block=0, prompt=PROMPT, seed=5,
                planned_ns=0,
            )  # fmt: skip
            await Client(http, Sampling(), 1).ask(question)
            await Client(http, Sampling(temperature=0.5, ignore_eos=True), 1).ask(question)

    asyncio.run(go())
    plain, sampled = bodies
    assert (plain["temperature"], plain["max_tokens"]) == (0, 64)
    assert not {"seed", "ignore_eos"} & plain.keys()
    assert (sampled["temperature"], sampled["seed"], sampled["ignore_eos"]) == (0.5, 5, True)
