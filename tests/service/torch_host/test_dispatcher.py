"""The dispatcher: every message is answered, and no error tells or logs what a prompt says."""

import asyncio
import contextlib
import threading

import pytest

from model_registry.spec import ModelSpec, ResolvedModel
from service.core.chat import ChatPrompt, ChatRequest, Message, Sampling, TextPrompt
from service.engines.text import codec as codec_module
from service.engines.text.chat_template import ChatTemplate
from service.engines.text.codec import TextCodec
from service.engines.torch.protocol.messages import (
    CallFailed,
    Detokenize,
    Events,
    Generate,
    Loaded,
    LoadFailed,
    LoadModel,
    RequestFailed,
    Tokenize,
)
from service.torch_host import loader
from service.torch_host import loop as loop_module
from service.torch_host.dispatcher import Dispatcher
from service.torch_host.eager.model import EagerModel
from service.torch_host.loop import EngineLoop
from support import tiny_text
from support.waiting import until

SECRET = "xylophone"


@pytest.fixture
def command(tmp_path):
    """To load a tiny llama."""
    spec = ModelSpec(
        id="m",
        family="transformer",
        licence="Apache-2.0",
        context_tokens=100,
        sources=(),
        dtype="float32",
    )
    folder = tiny_text.write_model("llama", tmp_path)
    model = ResolvedModel(spec=spec, variant=None, path=str(folder), weights_sha256=None)
    return LoadModel(
        model=model, slots=1, prefill_chunk_tokens=8, max_itl_ms=100.0, kernels="eager"
    )


@contextlib.asynccontextmanager
async def dispatching(told, fatal=None):
    """A dispatcher whose messages are collected, or go where `told` says."""
    send = told.append if isinstance(told, list) else told
    engine = EngineLoop(send)
    dispatcher = Dispatcher(engine, send, fatal or (lambda _: None))
    thread = threading.Thread(target=engine.run, daemon=True)
    thread.start()
    try:
        yield dispatcher
    finally:
        dispatcher.close()
        engine.stop()
        await asyncio.to_thread(thread.join, 20)


def of(told, kind):
    """Those messages that are of a kind."""
    return [message for message in told if isinstance(message, kind)]


@pytest.fixture
async def loaded(command):
    """A dispatcher with a loaded model, and what it has sent since."""
    told = []
    async with dispatching(told) as dispatcher:
        dispatcher.handle(command)
        await until(lambda: of(told, Loaded))
        told.clear()
        yield dispatcher, told


class Mute:
    """A model that was loaded, and then cannot say what it holds."""

    context_tokens, vocabulary_tokens, build, copies = 100, 10, None, None

    def __init__(self):
        self.closed = False

    def memory(self):
        raise AttributeError("no such tensor")

    def close(self):
        self.closed = True


async def test_a_model_that_cannot_say_what_it_is_fails_its_load(command, monkeypatch):
    """Regression: the error ended the load queue unheard, and every later load hung."""
    model, told = Mute(), []
    monkeypatch.setattr(loader, "load", lambda *_, **__: model)
    async with dispatching(told) as dispatcher:
        dispatcher.handle(command)
        await until(lambda: of(told, LoadFailed))

    assert LoadFailed("m", "m: AttributeError: no such tensor") in told
    assert model.closed


async def test_a_load_queue_that_dies_is_fatal(command, monkeypatch):
    """Regression: whoever waited for a load waited for ever."""
    monkeypatch.setattr(loader, "load", lambda *_, **__: Mute())
    fatal = []

    def refuse(message):
        if isinstance(message, LoadFailed):
            raise ZeroDivisionError

    async with dispatching(refuse, fatal.append) as dispatcher:
        dispatcher.handle(command)
        await until(lambda: fatal)

    assert isinstance(fatal[0], ZeroDivisionError)


def generate(request_id, prompt, **sampling):
    request = ChatRequest(
        request_id=request_id,
        model="m",
        prompt=prompt,
        sampling=Sampling(temperature=0, max_tokens=4, ignore_eos=True, **sampling),
        accepted_ns=0,
        accepted_at_ns=0,
    )
    return Generate(request, queued_ns=0)


async def test_a_text_that_cannot_fit_is_refused_without_a_thread(loaded, monkeypatch):
    """It costs no place among the texts that are worked on."""
    dispatcher, told = loaded
    monkeypatch.setattr(dispatcher, "_text", None)
    dispatcher.handle(generate("a", TextPrompt("hello " * 200_000)))
    await until(lambda: of(told, RequestFailed))

    assert of(told, RequestFailed)[0].code == "context_length_exceeded"


def raising(*_arguments, **_options):
    raise RuntimeError(f"I have read {SECRET}")


STAGES = {
    "rendering": (ChatTemplate, "render"),
    "tokenization": (codec_module, "_encode"),
    "prefill": (EagerModel, "prefill"),
    "sampling": (loop_module, "choose"),
    "decode": (EagerModel, "decode"),
    "detokenization": (TextCodec, "token_bytes"),
}


@pytest.mark.parametrize("stage", STAGES)
async def test_an_error_neither_logs_nor_tells_the_prompt(loaded, monkeypatch, caplog, stage):
    """Request, model, kind and frames are logged; the error's message may quote the prompt.

    Regression: the log had the whole request, and an error while text was decoded ended the loop.
    """
    dispatcher, told = loaded
    caplog.set_level(0)
    owner, name = STAGES[stage]
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, raising)
        prompt = ChatPrompt((Message(role="user", content=f"hello {SECRET}"),))
        dispatcher.handle(generate("request-7", prompt))
        await until(lambda: of(told, RequestFailed))
    failed = of(told, RequestFailed)[0]

    assert SECRET not in caplog.text
    assert SECRET not in failed.message
    assert "RuntimeError" in failed.message
    assert "model m, request request-7" in caplog.text
    assert f"in {raising.__name__}" in caplog.text

    dispatcher.handle(generate("next", TextPrompt("hello")))
    await until(lambda: of(told, Events))


@pytest.mark.parametrize(
    ("call", "owner", "name"),
    [
        (Tokenize(1, "m", TextPrompt(f"hello {SECRET}"), True), codec_module, "_encode"),
        (Detokenize(1, "m", (5, 6)), TextCodec, "decode"),
    ],
)
async def test_a_failed_call_neither_logs_nor_tells_its_text(
    loaded, monkeypatch, caplog, call, owner, name
):
    """The same of texts that are tokenized for their own sake."""
    dispatcher, told = loaded
    caplog.set_level(0)
    monkeypatch.setattr(owner, name, raising)
    dispatcher.handle(call)
    await until(lambda: of(told, CallFailed))

    assert SECRET not in caplog.text + of(told, CallFailed)[0].message
    assert "model m" in caplog.text
