"""What the torch engine holds is what was predicted, and is given back."""

import asyncio
from pathlib import Path

import psutil
import pytest

from model_registry.catalog import load_catalog
from model_registry.sources import locate
from service.core.chat import ChatRequest, Sampling, TextPrompt
from service.core.events import Finished
from service.engines.torch.engine import TorchEngine
from service.engines.torch.host import TorchHost
from service.engines.torch.options import TorchOptions

CYCLES = 20
SETTLED = 4
"""Cycles after which libraries are imported, kernels compiled and the heap has its size."""


@pytest.fixture(scope="module")
def run():
    """Run a coroutine on one event loop for the whole module."""
    with asyncio.Runner() as runner:
        yield runner.run


@pytest.fixture(scope="module")
def host(run, tmp_path_factory):
    """A host that these tests share."""
    host = TorchHost(TorchOptions(data_dir=tmp_path_factory.mktemp("host"), threads=1))
    yield host
    run(host.aclose())


def engine_of(host, name):
    return TorchEngine(locate(*load_catalog().find(name), Path("data/models")), host)


def held_bytes(engine):
    memory = engine.memory()
    return memory.weights_bytes + memory.slots_bytes + memory.workspace_bytes


def own_bytes(host):
    """Resident memory of the host without the pages of files."""
    memory = psutil.Process(host.status.pid).memory_info()
    return memory.rss - memory.shared


@pytest.mark.parametrize(
    "name",
    [
        "reference-transformer",
        "reference-ssm",
        "reference-hybrid",
        "reference-transformer:int8",
        "reference-ssm:int4",
        "reference-hybrid:float32",
    ],
)
def test_a_model_holds_about_what_was_predicted(run, host, name):
    """Weights and slots by the registry's formulas; the workspace by a rule of thumb."""
    engine = engine_of(host, name)
    predicted = engine.memory_estimate().held_bytes
    run(engine.start())
    held = held_bytes(engine)
    run(engine.aclose())
    assert 0.75 * held <= predicted <= 1.35 * held


@pytest.mark.parametrize("name", ["reference-transformer", "reference-ssm", "reference-hybrid"])
@pytest.mark.parametrize("tokens", [1, 70, 300])
def test_a_request_reserves_no_more_than_was_booked(run, host, name, tokens):
    """What its buffers have grown to lies within the booking; SSM states are booked at load."""
    request = ChatRequest(
        request_id=f"{name}-{tokens}",
        model=name,
        prompt=TextPrompt("one two three " * (tokens // 10 + 1)),
        sampling=Sampling(max_tokens=tokens, ignore_eos=True),
        accepted_ns=0,
        accepted_at_ns=0,
    )

    async def answer(engine):
        await engine.start()
        try:
            return [event async for event in engine.generate(request)][-1]
        finally:
            await engine.aclose()

    engine = engine_of(host, name)
    engine.memory_estimate()
    finished = run(answer(engine))
    assert isinstance(finished, Finished)
    state = finished.state
    grown = state.reserved_bytes - state.ssm_state_bytes - state.conv_state_bytes
    exactly = engine.state_bytes(request, prompt_tokens=finished.prompt_tokens)
    assert grown <= exactly <= engine.state_bytes(request)
    if name == "reference-ssm":
        assert exactly == 0


def test_loading_and_unloading_leaves_nothing_behind(run, host):
    """Twenty cycles of a model of 33 MB: a leak of 1 MB a cycle would show."""

    async def cycle():
        engine = engine_of(host, "reference-ssm:float32")
        await engine.start()
        await engine.aclose()
        return own_bytes(host)

    after = [run(cycle()) for _ in range(CYCLES)]
    assert min(after[-3:]) - min(after[SETTLED : SETTLED + 3]) < 8 * 2**20


def test_a_load_that_is_cancelled_leaves_no_model(run, host):
    """The host holds nothing under its name when the unload returns, and the name is free again."""

    async def main():
        engine = engine_of(host, "reference-ssm:float32")
        load = asyncio.create_task(engine.start())
        while engine.load_progress() is None:  # noqa: ASYNC110 (there is no event for it)
            await asyncio.sleep(0.001)
        load.cancel()
        await asyncio.gather(load, return_exceptions=True)
        await engine.aclose()
        assert host.runtime.models == ()
        await engine.start()
        await engine.aclose()

    run(main())
