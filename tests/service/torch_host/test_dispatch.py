"""The host's front desk: what goes wrong is said to whoever waits for it, or ends the host."""

import asyncio

import pytest
from support import tiny_text

from model_registry.spec import ModelSpec, ResolvedModel
from service.engines.torch.protocol.messages import LoadFailed, LoadModel
from service.torch_host import dispatch
from service.torch_host.dispatch import Dispatch
from service.torch_host.loop import EngineLoop


@pytest.fixture
def order(tmp_path):
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


async def first(order, *, send=lambda _: None):
    """What a desk says first of a load that fails, or the error that fells it."""
    told = asyncio.get_running_loop().create_future()

    def tell(message):
        send(message)
        if isinstance(message, LoadFailed):
            told.set_result(message)

    desk = Dispatch(EngineLoop(tell), tell, told.set_result)
    desk.handle(order)
    try:
        return await told
    finally:
        desk._librarian.cancel()


class Voiceless:
    """A model that was loaded, and then cannot say what it holds."""

    context_tokens, vocabulary_tokens, build = 100, 10, None

    def __init__(self):
        self.closed = False

    def memory(self):
        raise AttributeError("no such tensor")

    def close(self):
        self.closed = True


def test_a_model_that_cannot_say_what_it_is_fails_its_load(order, monkeypatch):
    """Regression: the error ended the librarian unheard, and every later load hung."""
    model = Voiceless()
    monkeypatch.setattr(dispatch, "load", lambda *_, **__: model)
    failed = asyncio.run(first(order))

    assert failed == LoadFailed("m", "m: AttributeError: no such tensor")
    assert model.closed


def test_a_librarian_that_dies_is_fatal(order, monkeypatch):
    """Regression: whoever waited for a load waited for ever."""
    monkeypatch.setattr(dispatch, "load", lambda *_, **__: Voiceless())

    def refuse(message):
        if isinstance(message, LoadFailed):
            raise ZeroDivisionError

    assert isinstance(asyncio.run(first(order, send=refuse)), ZeroDivisionError)
