"""Other servers that refuse, break off, hang or are not there."""

import asyncio
import json
from contextlib import aclosing

import pytest

from model_registry.spec import ModelSpec, Remote, ResolvedModel
from service.core.errors import (
    ContextOverflow,
    EngineFailed,
    InvalidRequest,
    ModelNotReady,
    Overloaded,
    TriptychError,
)
from service.core.events import Delta, Finished
from service.engines.openai.server import OpenAiServer, remote_server
from support.far_side import PLAIN, engine_at, request


@pytest.mark.parametrize(
    ("status", "body", "kind", "message"),
    [
        (400, {"error": {"message": "bad", "param": "top_p"}}, InvalidRequest, "bad"),
        (422, {"message": "no"}, InvalidRequest, "no"),
        (400, {"error": {"message": "larger than max_model_len=2048"}}, ContextOverflow, "2048"),
        (400, {"error": {"message": "x", "code": "context_length_exceeded"}}, ContextOverflow, "x"),
        (401, {"error": "Unauthorized"}, ModelNotReady, "API key"),
        (404, {"error": {"message": "no `far`"}}, ModelNotReady, "no such model"),
        (429, {}, Overloaded, "busy"),
        (500, {"error": {"message": "boom"}}, EngineFailed, "status 500"),
    ],
)
async def test_a_refusal_keeps_its_reason(ask, status, body, kind, message):
    """Statuses of other servers become errors of ours."""

    def prepare(far):
        far.answer = (status, "", json.dumps(body).encode())

    with pytest.raises(kind, match=message):
        await ask(prepare)


async def test_a_busy_server_says_when_to_come_back(ask):
    """Its Retry-After is passed on."""

    def prepare(far):
        far.answer = (503, "retry-after: 7\r\n", b"")

    with pytest.raises(EngineFailed) as caught:
        await ask(prepare)

    assert caught.value.retry_after_s == 7


@pytest.mark.parametrize(
    ("chunks", "kind", "message"),
    [
        ([PLAIN[0], {"error": {"message": "engine dead"}}], EngineFailed, "reported an error"),
        ([{"error": {"message": "bad bias", "code": 400}}], InvalidRequest, "bad bias"),
        ([PLAIN[0]], EngineFailed, "before the answer was complete"),
        ([{"choices": [{"delta": {}, "finish_reason": "abort"}]}], EngineFailed, "abort"),
        ([{"choices": 3}], EngineFailed, "malformed chunk"),
    ],
)
async def test_a_stream_that_fails_fails_the_request(ask, chunks, kind, message):
    """Errors within a stream, ends without an end, and what is no chunk."""
    with pytest.raises(kind, match=message):
        await ask(lambda far: far.streams(chunks))


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"SSH-2.0-x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\ndata:\r\n",
    ],
)
async def test_what_is_not_http_fails_the_request(ask, raw):
    """Once, errors of the transport's own library came through as bugs of the service."""
    with pytest.raises(EngineFailed, match="The connection to the server of near was lost"):
        await ask(lambda far: setattr(far, "raw", raw))


async def test_an_answer_without_its_last_line_has_failed(ask):
    """A finish reason alone may mean that usage and times were lost on the way."""
    with pytest.raises(EngineFailed, match="before the answer was complete"):
        await ask(lambda far: far.streams(PLAIN, done=False))


async def test_a_server_out_of_reach_is_in_trouble_until_it_answers(ask):
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
    *few, three, answered = await ask(prepare, start=start)

    assert few == [None, None]
    assert "could not be reached 3 times" in three
    assert answered is None


async def test_a_closed_engine_says_so(ask):
    """A request that comes too late fails as one of an engine does."""

    async def start(engine):
        await engine.aclose()
        return [event async for event in engine.generate(request("Hi"))]

    with pytest.raises(EngineFailed, match="near is closed"):
        await ask(lambda far: None, start=start)


async def test_a_server_without_the_model_says_which_it_has(ask):
    """The message lists them."""

    def prepare(far):
        far.files["/v1/models"] = {"data": [{"id": "other"}]}

    with pytest.raises(ModelNotReady, match="no model 'far'"):
        await ask(prepare)


async def test_a_model_that_went_away_is_answered_with_those_that_are_there(ask):
    """A server may forget a model while it is served here."""

    async def start(engine):
        files["/v1/models"] = {"data": [{"id": "other"}]}
        return [event async for event in engine.generate(request("Hi"))]

    def prepare(far):
        files.update(far.files)
        far.files = files
        far.answer = (404, "", b'{"error": {"message": "gone"}}')

    files = {}
    with pytest.raises(ModelNotReady, match="no model 'far'"):
        await ask(prepare, start=start)


@pytest.mark.parametrize(
    "last",
    [
        {"choices": [], "usage": {"prompt_tokens": -5}},
        {"choices": [], "usage": {"completion_tokens": 2**63}},
        {"choices": [], "metrics": {"state": {"reserved_bytes": 2**63}}},
        {"choices": [], "timings": {"prompt_ms": -1.0}},
    ],
)
async def test_impossible_counts_fail_the_request(ask, last):
    """Once they reached metrics and records, which took them for bugs of the service."""
    with pytest.raises(EngineFailed, match="malformed chunk"):
        await ask(lambda far: far.streams([*PLAIN, last]))


async def test_a_long_error_is_read_no_further_than_needed(ask):
    """Once a refusal of any length was held in memory."""

    def prepare(far):
        far.script = [b"HTTP/1.1 400 X\r\n\r\nBad ", *[b"x" * 2**20] * 8]

    with pytest.raises(InvalidRequest, match="Bad xxx"):
        await ask(prepare)


@pytest.mark.parametrize("listed", [[], {"data": ["far"]}, {"data": None}])
async def test_a_server_without_a_list_of_models_is_none(ask, listed):
    """What answers something else is no server of the OpenAI API."""
    with pytest.raises(ModelNotReady, match="does not speak the OpenAI API"):
        await ask(lambda far: far.files.update({"/v1/models": listed}))


async def test_a_server_that_is_not_there_is_named_in_the_log_alone(tmp_path, caplog):
    """The operator reads its address, the client only whose server it is."""
    engine = engine_at(str(tmp_path / "nobody.sock"))

    with pytest.raises(ModelNotReady) as caught:
        await engine.start()
    await engine.aclose()

    assert str(caught.value).startswith("near: its server does not speak the OpenAI API")
    assert "nobody.sock" not in str(caught.value)
    assert "nobody.sock" in caplog.text


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


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (500, "Cannot connect to 10.1.2.3:8000"),
        (502, "upstream http://inner.example/v1 is gone"),
        (503, "open /srv/models/secret.gguf: no such file"),
        (404, "no such file: /srv/models/secret.gguf"),
        (400, "Bad value on [fd00::17]:8000, which is fd00::17 or fe80:1:2:3:4:5:6:7"),
        (400, r"Bad value in C:\srv\models\secret.gguf"),
        (
            400,
            "Bad value at http://inner.example:81/v1 in /srv/models/x.gguf of 10.1.2.3:8000",
        ),
    ],
)
async def test_addresses_and_paths_of_the_far_side_reach_no_client(ask, caplog, status, message):
    """Its own words are logged, and what a client may use of a refusal is shown without them."""

    def prepare(far):
        far.answer = (status, "", json.dumps({"error": {"message": message}}).encode())

    with pytest.raises(TriptychError) as caught:
        await ask(prepare)

    for hidden in ("10.1.2.3", "inner.example", "srv", "http:", "far.sock", "fd00", "fe80"):
        assert hidden not in str(caught.value)
    assert ("Bad value" in str(caught.value)) == (status == 400)
    assert (message in caplog.text) == (status != 400)


async def test_an_error_within_a_stream_shows_no_address(ask, caplog):
    """Also after the first chunk."""
    error = {"error": {"message": "lost 10.1.2.3:8000"}}
    with pytest.raises(EngineFailed) as caught:
        await ask(lambda far: far.streams([PLAIN[0], error]))

    assert "10.1.2.3" not in str(caught.value)
    assert "10.1.2.3:8000" in caplog.text


async def test_a_token_may_have_null_for_its_alternatives(ask):
    """Once the whole answer failed."""
    content = [{"token": "Hello", "logprob": -0.5, "top_logprobs": None}]
    choice = PLAIN[0]["choices"][0] | {"logprobs": {"content": content}}

    _, events = await ask(lambda far: far.streams([{"choices": [choice]}, PLAIN[1]]), logprobs=0)

    (first, *_) = (event for event in events if isinstance(event, Delta))
    assert [(each.logprob, each.top) for each in first.logprobs] == [(-0.5, ())]


HEAD = b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n"
CHUNK = f"data: {json.dumps(PLAIN[0])}\n\n".encode()
PING = b": keep-alive\n\n"
EMPTY = b'data: {"choices": [{"delta": {"content": ""}}]}\n\n'
LIMITS = {"first_byte_s": 0.3, "between_tokens_s": 0.3}


@pytest.mark.parametrize(
    "script",
    [
        [],
        [HEAD],
        [HEAD, CHUNK],
        [HEAD, CHUNK, *[0.1, PING] * 60],
        [HEAD, CHUNK, *[0.1, EMPTY] * 60],
        [b"HTTP/1.1 500 X\r\ncontent-length: 9\r\n\r\n{"],
    ],
    ids=["no head", "no chunk", "one chunk", "comments alone", "empty chunks", "half an error"],
)
async def test_a_server_that_hangs_is_given_up(ask, script):
    """Wherever it stops, comments that only keep a connection open are no progress of an answer."""
    with pytest.raises(EngineFailed, match=r"sent nothing|reported an error|status 500"):
        async with asyncio.timeout(5):
            await ask(lambda far: setattr(far, "script", script), limits=LIMITS)


async def test_comments_before_the_first_token_are_signs_of_life(ask):
    """A server that loads the model first may take its time."""
    done = f"data: {json.dumps(PLAIN[1])}\n\ndata: [DONE]\n\n".encode()
    script = [HEAD, *[0.1, PING] * 6, CHUNK, 0.1, done]

    _, events = await ask(lambda far: setattr(far, "script", script), limits=LIMITS)

    assert [event.text for event in events if isinstance(event, Delta)] == ["Hello", " you"]


async def test_a_complete_answer_needs_no_end_of_the_connection(ask):
    """A server that holds the connection open after the last event does not hold the client."""
    script = [HEAD, *(f"data: {json.dumps(chunk)}\n\n".encode() for chunk in PLAIN)]
    script += [b"data: [DONE]\n\n"]

    async with asyncio.timeout(5):
        _, events = await ask(lambda far: setattr(far, "script", script))

    assert isinstance(events[-1], Finished)


async def test_a_hang_counts_towards_being_out_of_reach(ask):
    """Three in a row without a response are told, as with broken connections."""

    async def start(engine):
        for _ in range(3):
            with pytest.raises(EngineFailed):
                [event async for event in engine.generate(request("Hi"))]
        return engine.trouble()

    trouble = await ask(lambda far: setattr(far, "script", []), start=start, limits=LIMITS)

    assert "could not be reached 3 times" in trouble
    assert "far.sock" not in trouble
