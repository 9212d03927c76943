"""The engine for other servers before llama.cpp's own, as `llama-cpp-python[server]` has it.

Needs an interpreter that has it and a GGUF file with its tokenizer:

    TRIPTYCH_LLAMA_PYTHON=~/llama-env/bin/python TRIPTYCH_LLAMA_GGUF=model.gguf pytest -m llama_cpp
"""

import asyncio
import os
import socket
import subprocess
import time
from contextlib import aclosing

import httpx
import pytest

from model_registry.spec import ModelSpec, Remote, ResolvedModel
from service.core.chat import ChatPrompt, ChatRequest, Message, Sampling, TextPrompt
from service.core.events import Delta
from service.engines.openai.engine import OpenAiEngine
from service.engines.openai.server import remote_server
from service.serving.models.conformance import probe

PYTHON, GGUF = os.environ.get("TRIPTYCH_LLAMA_PYTHON"), os.environ.get("TRIPTYCH_LLAMA_GGUF")

pytestmark = [
    pytest.mark.llama_cpp,
    pytest.mark.skipif(
        not (PYTHON and GGUF),
        reason="llama.cpp's server was not tested: set TRIPTYCH_LLAMA_PYTHON, TRIPTYCH_LLAMA_GGUF",
    ),
]


@pytest.fixture(scope="module")
def run():
    with asyncio.Runner() as runner:
        yield runner.run


@pytest.fixture(scope="module")
def engine(run, tmp_path_factory):
    """A started engine before a server that holds the model."""
    with socket.socket() as probed:
        probed.bind(("127.0.0.1", 0))
        port = probed.getsockname()[1]
    command = [PYTHON, "-m", "llama_cpp.server", "--model", GGUF, "--model_alias", "far"]
    command += ["--port", str(port), "--n_ctx", "512", "--n_threads", "1"]
    with (tmp_path_factory.mktemp("llama") / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + 120
            while not answers(f"http://127.0.0.1:{port}/v1/models"):
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.2)
            spec = ModelSpec(
                id="near",
                family="transformer",
                licence="Apache-2.0",
                context_tokens=512,
                sources=(),
                engine="openai",
                remote=Remote(base_url=f"http://127.0.0.1:{port}/v1", model="far"),
            )
            model = ResolvedModel(spec=spec, variant=None, path="", weights_sha256=None)
            engine = OpenAiEngine(model, remote_server(model), max_answer_tokens=64)
            run(engine.start())
            yield engine
            run(engine.aclose())
        finally:
            process.terminate()
            process.wait(30)


def answers(url):
    try:
        return httpx.get(url).is_success
    except httpx.TransportError:
        return False


async def ask(engine, prompt, **sampling):
    request = ChatRequest(
        request_id="r",
        model="near",
        prompt=prompt,
        sampling=Sampling(**sampling),
        accepted_ns=time.monotonic_ns(),
        accepted_at_ns=0,
    )
    async with aclosing(engine.generate(request)) as events:
        async for event in events:
            yield event


CHAT = ChatPrompt((Message(role="user", content="Say hi"),))


def test_a_chat_is_streamed_and_what_is_not_told_stays_unknown(run, engine):
    """It streams text alone: neither tokens nor usage."""

    async def answer():
        return [event async for event in ask(engine, CHAT, temperature=0.0, max_tokens=8)]

    *_, finished = events = run(answer())
    texts = [event.text for event in events if isinstance(event, Delta)]

    assert len(texts) > 1
    assert finished.reason == "length"
    assert (finished.prompt_tokens, finished.completion_tokens) == (None, None)
    assert finished.first_ns < finished.last_ns


def test_a_stop_string_ends_a_completion(run, engine):
    """The far side obeys it, and the text ends before it."""

    async def answer(**sampling):
        prompt = TextPrompt("One, two, three, four,")
        events = [event async for event in ask(engine, prompt, temperature=0.0, **sampling)]
        return "".join(event.text for event in events if isinstance(event, Delta)), events[-1]

    whole, _ = run(answer(max_tokens=12))
    stop = whole[4:7]
    text, finished = run(answer(max_tokens=12, stop=(stop,)))

    assert text == whole[: whole.index(stop)]
    assert finished.reason == "stop"


def test_a_client_that_leaves_stops_the_far_side(run, engine):
    """It answers one request at a time, so the next one comes only if the first has ended."""

    async def leave_and_ask_again():
        async with aclosing(ask(engine, CHAT, max_tokens=400, ignore_eos=False)) as events:
            async for event in events:
                if isinstance(event, Delta):
                    break
        return [event async for event in ask(engine, CHAT, max_tokens=2)][-1].reason

    assert run(leave_and_ask_again()) == "length"


def test_it_cannot_be_probed(run, engine):
    """It tells no tokens: the model is neither verified nor found at fault."""
    assert run(probe(engine)).passed is None
