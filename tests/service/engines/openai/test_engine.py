"""Other servers as engines, on what they were recorded to send."""

import asyncio
import json
import time
from contextlib import aclosing

import msgspec
import pytest

from model_registry.spec import ModelSpec, Remote, ResolvedModel
from service.core.chat import ChatPrompt, ChatRequest, Message, Sampling, TextPrompt
from service.core.errors import (
    ContextOverflow,
    EngineFailed,
    InvalidRequest,
    ModelNotReady,
    Overloaded,
    UnsupportedField,
)
from service.core.events import Delta, Finished, Started
from service.engines.openai.engine import OpenAiEngine, OpenAiServer, remote_server
from service.serving.models.conformance import probe

MODELS = {"data": [{"id": "far", "max_model_len": 2048}]}

#: vLLM 0.32, `--enable-per-request-metrics`.
VLLM = [
    {
        "choices": [
            {"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}
        ],
        "prompt_token_ids": [1, 9690, 198],
    },
    {
        "choices": [
            {
                "index": 0,
                "delta": {"content": "I"},
                "logprobs": {
                    "content": [
                        {
                            "token": "I",
                            "logprob": -0.5,
                            "bytes": [73],
                            "top_logprobs": [
                                {"token": "I", "logprob": -0.5, "bytes": [73]},
                                {"token": "Hello", "logprob": -1.5, "bytes": [72]},
                            ],
                        }
                    ]
                },
                "finish_reason": None,
                "token_ids": [57],
            }
        ]
    },
    {
        "choices": [
            {
                "index": 0,
                "delta": {"content": "'m"},
                "logprobs": None,
                "finish_reason": "length",
                "stop_reason": None,
                "token_ids": [5248],
            }
        ]
    },
    {
        "choices": [],
        "usage": {"prompt_tokens": 3, "total_tokens": 5, "completion_tokens": 2},
        "metrics": {"time_to_first_token_ms": 0.004, "queue_time_ms": 0.001},
    },
]
#: A server that knows the OpenAI API and no more.
PLAIN = [
    {"choices": [{"index": 0, "delta": {"content": "Hello"}, "finish_reason": None}]},
    {"choices": [{"index": 0, "delta": {"content": " you"}, "finish_reason": "stop"}]},
]


class FarSide:
    """A server on a UNIX socket that answers every question about it, and requests as told."""

    def __init__(self, path):
        self.path = path
        self.asked = []
        self.answer = (200, "", b"")
        self.raw = None
        self.files = {"/v1/models": MODELS}

    async def serve(self, reader, writer):
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        method, path, _ = head.split(" ", 2)
        status, headers, content = 200, "", json.dumps(self.files.get(path)).encode()
        if method == "POST":
            length = int(head.lower().split("content-length: ")[1].split("\r\n")[0])
            self.asked.append(json.loads(await reader.readexactly(length)))
            status, headers, content = self.answer
            if self.raw is not None:
                writer.write(self.raw)
                writer.close()
                return
        elif path not in self.files:
            status, content = 404, b""
        writer.write(
            f"HTTP/1.1 {status} X\r\nconnection: close\r\ncontent-length: {len(content)}\r\n"
            f"{headers}\r\n".encode()
            + content
        )
        writer.close()

    def streams(self, chunks, done=True):
        events = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks)
        self.answer = (200, "", (events + "data: [DONE]\n\n" * done).encode())


@pytest.fixture
def ask(tmp_path):
    """Starts an engine before a far side, and asks it once."""

    def asked(prepare, prompt="Hi", *, dialect=None, start=None, **sampling):
        async def run():
            far = FarSide(str(tmp_path / "far.sock"))
            prepare(far)
            server = await asyncio.start_unix_server(far.serve, far.path)
            engine = engine_at(far.path, dialect)
            async with server:
                try:
                    await engine.start()
                    if start is not None:
                        return await start(engine)
                    async with aclosing(engine.generate(request(prompt, **sampling))) as events:
                        return far, [event async for event in events]
                finally:
                    await engine.aclose()

        return asyncio.run(run())

    return asked


def engine_at(path, dialect=None, **options):
    spec = ModelSpec(
        id="near", family="ssm", licence="MIT", context_tokens=2048, sources=(), engine="openai"
    )
    model = ResolvedModel(spec=spec, variant=None, path="", weights_sha256=None)
    server = OpenAiServer(base_url="http://far/v1", model="far", uds=path, dialect=dialect)
    return OpenAiEngine(model, server, **options)


def request(prompt, **sampling):
    return ChatRequest(
        request_id="r",
        model="near",
        prompt=ChatPrompt((Message(role="user", content=prompt),))
        if isinstance(prompt, str)
        else prompt,
        sampling=Sampling(**sampling),
        accepted_ns=time.monotonic_ns(),
        accepted_at_ns=0,
    )


def test_vllm_tells_tokens_and_times(ask):
    """Token ids, counts, log-probabilities, and when the prefill began."""
    far, events = ask(lambda far: far.streams(VLLM), dialect="vllm", logprobs=2, max_tokens=2)
    started, *deltas, finished = events

    assert (started.prompt_tokens, started.scheduled_ns) == (3, None)
    assert [delta.token_ids for delta in deltas] == [(57,), (5248,)]
    assert [token.token_id for token in deltas[0].logprobs[0].top] == [57, None]
    assert (finished.reason, finished.prompt_tokens, finished.completion_tokens) == ("length", 3, 2)
    assert finished.first_ns - finished.scheduled_ns == 3_000
    assert started.queued_ns <= finished.scheduled_ns
    assert far.asked[0]["return_token_ids"] is True


def test_a_server_that_tells_only_text_leaves_counts_unknown(ask):
    """Nothing is guessed from the number of pieces."""
    _, events = ask(lambda far: far.streams(PLAIN))
    finished = events[-1]

    assert [event.text for event in events if isinstance(event, Delta)] == ["Hello", " you"]
    assert {event.token_ids for event in events if isinstance(event, Delta)} == {None}
    assert (finished.prompt_tokens, finished.completion_tokens) == (None, None)
    assert (finished.scheduled_ns, finished.cached_tokens) == (None, None)
    assert finished.state.attention_kv_bytes is None


def test_a_server_without_tokens_is_probed_by_its_texts(ask):
    """Equal prompts must at least get equal texts."""
    found = ask(lambda far: far.streams(PLAIN), dialect="vllm", start=probe)

    assert found.passed


def test_a_server_that_cannot_be_probed_is_not_called_faulty(ask):
    """The probe asks for what plain servers do not know: nothing was found out."""
    found = ask(lambda far: far.streams(PLAIN), start=probe)

    assert found.passed is None
    assert "ignore_eos" in found.reason


def test_llama_cpp_tells_its_prefill(ask):
    """Its `timings` stand for the times, and what its cache saved."""
    last = {"choices": [], "timings": {"prompt_ms": 0.002, "cache_n": 7}}
    _, events = ask(lambda far: far.streams([*PLAIN, last]), dialect="llama.cpp")
    finished = events[-1]

    assert (finished.first_ns - finished.scheduled_ns, finished.cached_tokens) == (2_000, 7)


def test_what_differs_from_the_defaults_is_sent(ask):
    """Temperature and top-p always: a server may have defaults of its own."""
    far, _ = ask(lambda far: far.streams(VLLM), dialect="vllm", top_k=5, stop=("x",), seed=3)

    assert (far.asked[0]["temperature"], far.asked[0]["top_p"]) == (1.0, 1.0)
    assert {name: far.asked[0][name] for name in ("top_k", "stop", "seed")} == {
        "top_k": 5,
        "stop": ["x"],
        "seed": 3,
    }
    assert {"min_p", "logit_bias", "max_tokens"}.isdisjoint(far.asked[0])


def test_what_a_server_does_not_know_is_refused(ask):
    """A field that would be ignored on the way is an error."""
    with pytest.raises(UnsupportedField, match="top_k") as caught:
        ask(lambda far: far.streams(PLAIN), dialect="openai", top_k=5)

    assert caught.value.param == "top_k"


@pytest.mark.parametrize(
    ("dialect", "chunks", "tokens"), [("vllm", VLLM, 1), ("openai", PLAIN, None)]
)
def test_a_long_answer_is_cut_here_where_the_server_was_told_no_limit(
    tmp_path, dialect, chunks, tokens
):
    """The service's own limit holds for other servers too: in pieces, if tokens are not told."""

    async def run():
        far = FarSide(str(tmp_path / "far.sock"))
        far.streams(chunks)
        async with await asyncio.start_unix_server(far.serve, far.path):
            engine = engine_at(far.path, dialect, max_answer_tokens=1)
            await engine.start()
            events = [event async for event in engine.generate(request("Hi"))]
            await engine.aclose()
        return events[-1]

    finished = asyncio.run(run())

    assert (finished.reason, finished.completion_tokens) == ("length", tokens)


@pytest.mark.parametrize(
    ("status", "body", "kind", "message"),
    [
        (400, {"error": {"message": "bad", "param": "top_p"}}, InvalidRequest, "bad"),
        (422, {"message": "no"}, InvalidRequest, "no"),
        (400, {"error": {"message": "larger than max_model_len=2048"}}, ContextOverflow, "2048"),
        (400, {"error": {"message": "x", "code": "context_length_exceeded"}}, ContextOverflow, "x"),
        (401, {"error": "Unauthorized"}, ModelNotReady, "API key"),
        (404, {"error": {"message": "no `far`"}}, ModelNotReady, "no `far`"),
        (429, {}, Overloaded, "busy"),
        (500, {"error": {"message": "boom"}}, EngineFailed, "500: boom"),
    ],
)
def test_a_refusal_keeps_its_reason(ask, status, body, kind, message):
    """Statuses of other servers become errors of ours."""

    def prepare(far):
        far.answer = (status, "", json.dumps(body).encode())

    with pytest.raises(kind, match=message):
        ask(prepare)


def test_a_busy_server_says_when_to_come_back(ask):
    """Its Retry-After is passed on."""

    def prepare(far):
        far.answer = (503, "retry-after: 7\r\n", b"")

    with pytest.raises(EngineFailed) as caught:
        ask(prepare)

    assert caught.value.retry_after_s == 7


@pytest.mark.parametrize(
    ("chunks", "kind", "message"),
    [
        ([PLAIN[0], {"error": {"message": "engine dead"}}], EngineFailed, "engine dead"),
        ([{"error": {"message": "bad bias", "code": 400}}], InvalidRequest, "bad bias"),
        ([PLAIN[0]], EngineFailed, "without finishing"),
        ([{"choices": [{"delta": {}, "finish_reason": "tool_calls"}]}], EngineFailed, "tool_calls"),
        ([{"choices": 3}], EngineFailed, "choices"),
    ],
)
def test_a_stream_that_fails_fails_the_request(ask, chunks, kind, message):
    """Errors within a stream, ends without an end, and what is no chunk."""
    with pytest.raises(kind, match=message):
        ask(lambda far: far.streams(chunks))


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"SSH-2.0-x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\ndata:\r\n",
    ],
)
def test_what_is_not_http_fails_the_request(ask, raw):
    """Once, errors of the transport's own library came through as bugs of the service."""
    with pytest.raises(EngineFailed, match=r"The server .* failed: "):
        ask(lambda far: setattr(far, "raw", raw))


def test_an_answer_without_its_last_line_has_failed(ask):
    """A finish reason alone may mean that usage and times were lost on the way."""
    with pytest.raises(EngineFailed, match="without finishing"):
        ask(lambda far: far.streams(PLAIN, done=False))


def test_a_server_out_of_reach_is_in_trouble_until_it_answers(ask):
    """One failure is an accident; three in a row are told, and an answer forgets them."""

    async def start(engine):
        found = []
        for raw in (b"", b"", b"", None):
            far_side.raw = raw
            try:
                async with aclosing(engine.generate(request("Hi"))) as events:
                    [event async for event in events]
            except EngineFailed:
                assert raw is not None
            found.append(engine.trouble())
        return found

    def prepare(far):
        nonlocal far_side
        far_side = far
        far.streams(PLAIN)

    far_side = None
    *few, three, answered = ask(prepare, start=start)

    assert few == [None, None]
    assert "could not be reached 3 times" in three
    assert answered is None


def test_a_closed_engine_says_so(ask):
    """A request that comes too late fails as one of an engine does."""

    async def start(engine):
        await engine.aclose()
        return [event async for event in engine.generate(request("Hi"))]

    with pytest.raises(EngineFailed, match="near is closed"):
        ask(lambda far: None, start=start)


def test_a_fingerprint_stands_for_a_version_that_is_not_told(ask):
    """Records can tell one build of a server from another."""
    marked = [chunk | {"system_fingerprint": "fp_7"} for chunk in PLAIN]
    _, events = ask(lambda far: far.streams(marked))
    _, unmarked = ask(lambda far: far.streams(PLAIN))

    assert events[-1].build.engine_version == "fp_7"
    assert unmarked[-1].build.engine_version == "unknown"


def test_the_kind_of_server_is_found_out(ask):
    """By what only that kind answers."""

    async def build(engine):
        return engine.dialect.name

    def prepare(far):
        far.files["/version"] = {"version": "0.32.0"}

    assert ask(prepare, start=build) == "vllm"
    assert ask(lambda far: None, start=build) == "openai"


def test_a_server_without_the_model_says_which_it_has(ask):
    """The message lists them."""

    def prepare(far):
        far.files["/v1/models"] = {"data": [{"id": "other"}]}

    with pytest.raises(ModelNotReady, match="no model 'far'; it has: other"):
        ask(prepare)


def test_a_model_that_went_away_is_answered_with_those_that_are_there(ask):
    """A server may forget a model while it is served here."""

    async def start(engine):
        files["/v1/models"] = {"data": [{"id": "other"}]}
        return [event async for event in engine.generate(request("Hi"))]

    def prepare(far):
        files.update(far.files)
        far.files = files
        far.answer = (404, "", b'{"error": {"message": "gone"}}')

    files = {}
    with pytest.raises(ModelNotReady, match="no model 'far'; it has: other"):
        ask(prepare, start=start)


@pytest.mark.parametrize("listed", [[], {"data": ["far"]}, {"data": None}])
def test_a_server_without_a_list_of_models_is_none(ask, listed):
    """What answers something else is no server of the OpenAI API."""
    with pytest.raises(ModelNotReady, match="does not answer as an OpenAI API would"):
        ask(lambda far: far.files.update({"/v1/models": listed}))


def test_a_server_that_is_not_there_is_named(tmp_path):
    """The load fails with its address."""
    engine = engine_at(str(tmp_path / "nobody.sock"))

    async def run():
        try:
            await engine.start()
        finally:
            await engine.aclose()

    with pytest.raises(ModelNotReady, match=r"nobody\.sock"):
        asyncio.run(run())


def test_a_missing_api_key_is_named(monkeypatch):
    """The variable is named, no key ever."""
    monkeypatch.delenv("FAR_KEY", raising=False)
    spec = ModelSpec(
        id="near",
        family="ssm",
        licence="MIT",
        context_tokens=64,
        sources=(),
        engine="openai",
        remote=Remote(base_url="https://far/v1", api_key_env="FAR_KEY"),
    )
    with pytest.raises(ModelNotReady, match="FAR_KEY"):
        remote_server(ResolvedModel(spec=spec, variant=None, path="", weights_sha256=None))


def test_a_key_is_not_shown():
    """A server's value may be logged."""
    server = OpenAiServer(base_url="https://far/v1", model="far", api_key="sk-hidden")

    assert "https://far/v1" in repr(server)
    assert "hidden" not in f"{server!r} {server}"


def test_the_prompt_of_an_echo_comes_first(ask):
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

    started, delta, finished = ask(lambda far: far.streams([first]), dialect="vllm", start=start)

    assert isinstance(started, Started)
    assert isinstance(finished, Finished)
    assert (started.prompt_text, started.prompt_token_ids) == ("The capital", (504, 3575))
    assert [token.logprob for token in started.prompt_logprobs] == [None, -11.7]
    assert (delta.text, delta.token_ids, delta.logprobs[0].logprob) == (" of", (282,), -0.3)
