"""A request is measured as its answer comes, and whatever goes wrong has a name."""

import time

import msgspec
import pytest

from loadtest.address import Address
from loadtest.client import Client, Question, body
from loadtest.corpus import Message, Prompt
from loadtest.observation import Observation
from loadtest.plan import Sampling
from loadtest.wire.process import WireProcess

PROMPT = Prompt(id="p", messages=(Message(role="user", content="Wohin?"),))


def question(model: str = "good", *, late_ms: float = 0) -> Question:
    now_ns = time.monotonic_ns()
    return Question(
        number=3,
        client_request_id=f"test-{model}-{now_ns}",
        model=model,
        block=1,
        prompt=PROMPT,
        seed=5,
        planned_ns=now_ns - round(late_ms * 1e6),
    )


async def ask(url: str, model: str, *, timeout_s: float = 20, late_ms: float = 0) -> Observation:
    address = Address.parse(url)
    async with WireProcess(address) as wire:
        client = Client(wire, address, Sampling(max_tokens=4), timeout_s)
        return await client.ask(question(model, late_ms=late_ms))


async def test_a_whole_answer_is_measured(running) -> None:
    """Times are ordered, tokens are the service's, bytes are those of the text."""
    seen = await ask(running.url, "good")

    assert (seen.outcome, seen.error, seen.finish_reason) == ("ok", None, "stop")
    assert (seen.prompt_tokens, seen.completion_tokens, seen.chunks) == (7, 4, 4)
    assert seen.text_bytes == len("Grüße aus\u2028Köln!".encode())
    assert seen.planned_ns <= seen.dispatched_ns <= seen.sent_ns
    assert seen.sent_ns < seen.first_ns < seen.last_ns <= seen.ended_ns


async def test_the_service_says_whether_the_model_is_verified(running) -> None:
    """Request id, coldness and the verdict of the conformance probe come with the answer."""
    seen = await ask(running.url, "odd")

    assert seen.request_id is not None
    assert (seen.cold, seen.verified) == (False, False)


async def test_times_count_from_the_planned_moment(running) -> None:
    """A request that is sent late has its lag in TTFT: a stalled client cannot look fast."""
    seen = await ask(running.url, "good", late_ms=300)

    assert seen.send_lag_ms > 300
    assert seen.ttft_ms > 300
    assert seen.ttft_from_sent_ms < seen.ttft_ms - 300
    assert seen.tpot_ms < 100


@pytest.mark.parametrize(
    ("model", "outcome", "error"),
    [
        ("busy", "refused", "HTTP 503 overloaded"),
        ("broken", "failed", "error event engine_failed"),
        ("cut", "failed", "stream ended without [DONE]"),
    ],
)
async def test_what_goes_wrong_is_named(running, model: str, outcome: str, error: str) -> None:
    """Error statuses, error events and cut streams are told apart."""
    seen = await ask(running.url, model)

    assert (seen.outcome, seen.error) == (outcome, error)


async def test_a_silent_service_is_given_up(running) -> None:
    """A request without an answer ends at the time limit."""
    seen = await ask(running.url, "stuck", timeout_s=0.2)

    assert (seen.outcome, seen.first_ns) == ("timeout", None)


async def test_a_refused_connection_is_a_failure() -> None:
    """A refused connection is an observation like any other, of a request that never left."""
    seen = await ask("http://127.0.0.1:9", "good")

    assert (seen.outcome, seen.error, seen.sent_ns) == ("failed", "ConnectionRefusedError", None)


@pytest.mark.parametrize("tokens", [None, 0, 1])
async def test_pace_needs_two_tokens(running, tokens: int | None) -> None:
    """With fewer than two tokens there is no time between tokens."""
    seen = msgspec.structs.replace(await ask(running.url, "good"), completion_tokens=tokens)

    assert (seen.tpot_ms, seen.tokens_per_s) == (None, None)


async def test_bytes_per_s_count_what_came_between_the_stamps(running) -> None:
    """The bytes of the first chunk came before the interval that they would be divided by."""
    seen = await ask(running.url, "good")
    decode_s = (seen.last_ns - seen.first_ns) / 1e9

    assert seen.first_text_bytes == len("Grüße".encode())
    later_bytes = len(" aus\u2028Köln!".encode())
    assert seen.bytes_per_s == pytest.approx(later_bytes / decode_s)


def test_the_request_says_what_the_plan_says() -> None:
    """Sampling, seed and `ignore_eos` are sent only as the plan asks."""
    plain = msgspec.json.decode(body(question(), Sampling()))
    sampled = msgspec.json.decode(body(question(), Sampling(temperature=0.5, ignore_eos=True)))

    assert (plain["temperature"], plain["max_tokens"]) == (0, 64)
    assert not {"seed", "ignore_eos"} & plain.keys()
    assert (sampled["temperature"], sampled["seed"], sampled["ignore_eos"]) == (0.5, 5, True)
