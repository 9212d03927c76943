"""Other servers as engines, on what they were recorded to send."""

import asyncio
import gzip

import msgspec
import pytest

from service.core.chat import TextPrompt
from service.core.errors import UnsupportedField
from service.core.events import Delta, Finished, Started
from service.serving.models.conformance import probe
from support.far_side import PLAIN, VLLM, FarSide, engine_at, request


async def test_vllm_tells_tokens_and_times(ask):
    """Token ids, counts, log-probabilities, and when the prefill began."""
    far, events = await ask(lambda far: far.streams(VLLM), dialect="vllm", logprobs=2, max_tokens=2)
    started, *deltas, finished = events

    assert (started.prompt_tokens, started.scheduled_ns) == (3, None)
    assert [delta.token_ids for delta in deltas] == [(57,), (5248,)]
    assert [token.token_id for token in deltas[0].logprobs[0].top] == [57, None]
    assert (finished.reason, finished.prompt_tokens, finished.completion_tokens) == ("length", 3, 2)
    assert finished.first_ns - finished.scheduled_ns == 3_000
    assert started.queued_ns <= finished.scheduled_ns
    assert far.asked[0]["return_token_ids"] is True


async def test_a_server_that_tells_only_text_leaves_counts_unknown(ask):
    """Nothing is guessed from the number of pieces."""
    _, events = await ask(lambda far: far.streams(PLAIN))
    finished = events[-1]

    assert [event.text for event in events if isinstance(event, Delta)] == ["Hello", " you"]
    assert {event.token_ids for event in events if isinstance(event, Delta)} == {None}
    assert (finished.prompt_tokens, finished.completion_tokens) == (None, None)
    assert (finished.scheduled_ns, finished.cached_tokens) == (None, None)
    assert finished.state.attention_kv_bytes is None


async def test_a_server_without_tokens_is_probed_by_its_texts(ask):
    """Equal prompts must at least get equal texts."""
    found = await ask(lambda far: far.streams(PLAIN), dialect="vllm", start=probe)

    assert found.passed


async def test_a_server_that_cannot_be_probed_is_not_called_faulty(ask):
    """The probe asks for what plain servers do not know: nothing was found out."""
    found = await ask(lambda far: far.streams(PLAIN), start=probe)

    assert found.passed is None
    assert "ignore_eos" in found.reason


async def test_llama_cpp_tells_its_prefill(ask):
    """Its `timings` stand for the times, and what its cache saved."""
    last = {"choices": [], "timings": {"prompt_ms": 0.002, "cache_n": 7}}
    _, events = await ask(lambda far: far.streams([*PLAIN, last]), dialect="llama.cpp")
    finished = events[-1]

    assert (finished.first_ns - finished.scheduled_ns, finished.cached_tokens) == (2_000, 7)


async def test_what_differs_from_the_defaults_is_sent(ask):
    """Temperature and top-p always: a server may have defaults of its own."""
    far, _ = await ask(lambda far: far.streams(VLLM), dialect="vllm", top_k=5, stop=("x",), seed=3)

    assert (far.asked[0]["temperature"], far.asked[0]["top_p"]) == (1.0, 1.0)
    assert {name: far.asked[0][name] for name in ("top_k", "stop", "seed")} == {
        "top_k": 5,
        "stop": ["x"],
        "seed": 3,
    }
    assert {"min_p", "logit_bias", "max_tokens"}.isdisjoint(far.asked[0])


async def test_what_concerns_a_servers_own_cache_is_sent(ask):
    """The salt to servers that have it; the wish for a whole prompt to those that grant it."""
    fields = {"cache_salt": "mine", "prefix_cache": False}
    vllm, _ = await ask(lambda far: far.streams(VLLM), dialect="vllm", of_request=fields)
    triptych, _ = await ask(lambda far: far.streams(VLLM), dialect="triptych", of_request=fields)
    with pytest.raises(UnsupportedField, match="cache_salt"):
        await ask(lambda far: far.streams(PLAIN), of_request=fields)

    assert (vllm.asked[0]["cache_salt"], "prefix_cache" in vllm.asked[0]) == ("mine", False)
    assert (triptych.asked[0]["cache_salt"], triptych.asked[0]["prefix_cache"]) == ("mine", False)


async def test_what_a_server_does_not_know_is_refused(ask):
    """A field that would be ignored on the way is an error."""
    with pytest.raises(UnsupportedField, match="top_k") as caught:
        await ask(lambda far: far.streams(PLAIN), dialect="openai", top_k=5)

    assert caught.value.param == "top_k"


@pytest.mark.parametrize(
    ("dialect", "chunks", "tokens"), [("vllm", VLLM, 1), ("openai", PLAIN, None)]
)
async def test_a_long_answer_is_cut_here_where_the_server_was_told_no_limit(
    tmp_path, dialect, chunks, tokens
):
    """The service's own limit holds for other servers too: in pieces, if tokens are not told."""
    far = FarSide(str(tmp_path / "far.sock"))
    far.streams(chunks)
    async with await asyncio.start_unix_server(far.serve, far.path):
        engine = engine_at(far.path, dialect, max_answer_tokens=1)
        await engine.start()
        *_, finished = [event async for event in engine.generate(request("Hi"))]
        await engine.aclose()

    assert (finished.reason, finished.completion_tokens) == ("length", tokens)


async def test_a_fingerprint_stands_for_a_version_that_is_not_told(ask):
    """Records can tell one build of a server from another."""
    marked = [chunk | {"system_fingerprint": "fp_7"} for chunk in PLAIN]
    _, events = await ask(lambda far: far.streams(marked))
    _, unmarked = await ask(lambda far: far.streams(PLAIN))

    assert events[-1].build.engine_version == "fp_7"
    assert unmarked[-1].build.engine_version == "unknown"


async def test_the_kind_of_server_is_found_out(ask):
    """By what only that kind answers."""

    async def build(engine):
        return engine.dialect.name

    def prepare(far):
        far.files["/version"] = {"version": "0.32.0"}

    assert await ask(prepare, start=build) == "vllm"
    assert await ask(lambda far: None, start=build) == "openai"


async def test_the_prompt_of_an_echo_comes_first(ask):
    """VLLM sends the prompt's tokens along with the first of the answer."""
    first = {
        "choices": [
            {
                "index": 0,
                "text": " of",
                "logprobs": {
                    "tokens": ["The", " capital", " of"],
                    "token_logprobs": [None, -11.7, -0.3],
                    "top_logprobs": [None, {" capital": -11.7, "-": -0.8}, {" of": -0.3}],
                },
                "finish_reason": "length",
                "prompt_token_ids": [504, 3575],
                "token_ids": [282],
            }
        ]
    }

    async def start(engine):
        asked = request(TextPrompt("The capital"), logprobs=1, max_tokens=1)
        asked = msgspec.structs.replace(asked, echo=True)
        return [event async for event in engine.generate(asked)]

    started, delta, finished = await ask(
        lambda far: far.streams([first]), dialect="vllm", start=start
    )

    assert isinstance(started, Started)
    assert isinstance(finished, Finished)
    assert (started.prompt_text, started.prompt_token_ids) == ("The capital", (504, 3575))
    assert [token.logprob for token in started.prompt_logprobs] == [None, -11.7]
    assert (delta.text, delta.token_ids, delta.logprobs[0].logprob) == (" of", (282,), -0.3)


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        ("stop", "stop"),
        ("length", "length"),
        ("content_filter", "content_filter"),
        ("tool_calls", "stop"),
        ("function_call", "stop"),
        ("eos_token", "stop"),
    ],
)
async def test_an_answer_ends_for_a_reason_that_clients_know(ask, told, reason):
    """Others become `stop`. `content_filter` once failed the whole answer."""
    last = {"choices": [{"index": 0, "delta": {"content": " you"}, "finish_reason": told}]}
    _, events = await ask(lambda far: far.streams([PLAIN[0], last]))

    assert events[-1].reason == reason
    assert [event.text for event in events[1:-1]] == ["Hello", " you"]


@pytest.mark.parametrize("told", [{}, {"content": None}, {"content": []}, {"tokens": []}])
async def test_log_probabilities_that_are_not_told_are_none(ask, told):
    """An empty list would say that the answer has no tokens."""
    chunk = {"choices": [{"delta": {"content": "x"}, "logprobs": told, "finish_reason": "stop"}]}
    _, events = await ask(lambda far: far.streams([chunk]), logprobs=1)

    assert [event.logprobs for event in events if isinstance(event, Delta)] == [None]


async def test_an_answer_is_asked_for_without_compression(ask):
    """Chunks then arrive as they are written; a server that compresses all the same is read."""

    def prepare(far):
        far.streams(PLAIN)
        status, _, content = far.answer
        far.answer = (status, "content-encoding: gzip\r\n", gzip.compress(content))

    far, events = await ask(prepare)

    assert "accept-encoding: identity\r\n" in far.heads[0]
    assert [event.text for event in events if isinstance(event, Delta)] == ["Hello", " you"]
