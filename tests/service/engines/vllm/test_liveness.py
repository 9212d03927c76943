"""A vLLM that hangs is noticed, killed and started again; a small server stands in for it."""

import asyncio
import json
import os
import signal
import time
from contextlib import aclosing

import pytest

from model_registry.spec import ModelSpec, ResolvedModel, Variant
from service.core.chat import ChatRequest, Sampling, TextPrompt
from service.core.errors import EngineDied, EngineFailed, ModelNotReady
from service.core.events import Delta, Finished
from service.engines.vllm.command import VllmOptions
from service.engines.vllm.engine import VllmEngine
from support.fake_vllm import write_interpreter
from support.waiting import until

LLAMA = {"model_type": "llama", "vocab_size": 64, "hidden_size": 64, "intermediate_size": 96,
         "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}  # fmt: skip
STALL_S = 1.0
PATIENCE = 3


@pytest.fixture
def model(tmp_path):
    """A folder with nothing but its config: the server reads no weights."""
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))

    def resolve(quantization=None):
        spec = ModelSpec(
            id="m", family="transformer", licence="x", context_tokens=4096, sources=(),
            engine="vllm", variants={"v": Variant(quantization=quantization)},
        )  # fmt: skip
        return ResolvedModel(spec=spec, variant="v", path=str(tmp_path), weights_sha256=None)

    return resolve


@pytest.fixture
async def engine(model, tmp_path, monkeypatch):
    """An engine that has answered once, so that STALL_S seconds without a token are a stall."""
    for module in ("supervision.watchdog", "vllm.server"):
        monkeypatch.setattr(f"service.engines.{module}.PATIENCE", PATIENCE)
    options = VllmOptions(data_dir=tmp_path, python=write_interpreter(tmp_path), stall_s=STALL_S)
    engine = VllmEngine(model(), options)
    await engine.start()
    async with aclosing(engine):
        await answer(engine)
        yield engine


def request(text, max_tokens=4):
    return ChatRequest(
        request_id=text, model="m", prompt=TextPrompt(text),
        sampling=Sampling(max_tokens=max_tokens), accepted_ns=0, accepted_at_ns=0,
    )  # fmt: skip


async def answer(engine, text="hello", max_tokens=4):
    """All events of one answer."""
    async with aclosing(engine.generate(request(text, max_tokens))) as events:
        return [event async for event in events]


async def test_an_engine_that_stops_in_an_answer_is_killed_and_comes_back(engine):
    """Its requests die with it, as suspects; without a limit they waited for ever."""
    pid = engine.pid
    with pytest.raises(EngineDied, match=r"made no step for 1 s while 1 request waited") as caught:
        await answer(engine, "hang")

    assert caught.value.suspect
    assert caught.value.retry_after_s > 0
    assert engine.liveness().stalled
    await until(lambda: engine.trouble() is None)
    assert (engine.restarts, engine.liveness().stalled) == (1, False)
    assert engine.pid != pid
    assert isinstance((await answer(engine))[-1], Finished)


async def test_an_engine_that_never_begins_an_answer_is_killed_later(engine):
    """A long prompt may take its time, since its chunks cannot be seen; not for ever."""
    begun_s = time.monotonic()
    with pytest.raises(EngineDied, match="made no step for 3 s"):
        await answer(engine, "hang at once")

    assert time.monotonic() - begun_s > STALL_S * (PATIENCE - 1)


async def test_a_stopped_server_is_killed_and_comes_back(engine):
    """SIGSTOP: it says nothing, and no connection breaks."""
    async with aclosing(engine.generate(request("hello", 1000))) as events:
        async for event in events:
            if isinstance(event, Delta):
                os.kill(engine.pid, signal.SIGSTOP)
                break
        with pytest.raises(EngineDied, match=r"sent no heartbeat for 1 s"):
            async for _ in events:
                pass

    await until(lambda: engine.trouble() is None)
    assert isinstance((await answer(engine))[-1], Finished)


async def test_steps_that_only_the_metrics_show_are_progress(engine):
    """A preempted or prefilled request has no tokens while vLLM works."""
    assert isinstance((await answer(engine, "think"))[-1], Finished)
    assert engine.restarts == 0


async def test_a_rest_is_no_stall(engine):
    """Nothing runs, so nothing is missed."""
    await asyncio.sleep(2 * STALL_S)

    assert engine.liveness().silent_s is None
    assert isinstance((await answer(engine))[-1], Finished)


async def test_one_starved_request_fails_alone(engine):
    """Others get their tokens, so the server is not killed for it."""
    starved = asyncio.create_task(answer(engine, "starve"))
    served = 0
    while not starved.done():
        served += isinstance((await answer(engine))[-1], Finished)
    with pytest.raises(EngineFailed, match="sent nothing for 3 s") as caught:
        await starved

    assert not isinstance(caught.value, EngineDied)
    assert served > 10
    assert engine.restarts == 0


async def test_an_error_in_the_supervision_fails_the_start(model, tmp_path, monkeypatch, caplog):
    """It did not: the first start waited for ever for a supervisor that had ended."""

    def command(*_):
        raise KeyError("gguf")

    monkeypatch.setattr("service.engines.vllm.server.command", command)
    options = VllmOptions(data_dir=tmp_path, python=write_interpreter(tmp_path))
    engine = VllmEngine(model(), options)
    async with asyncio.timeout(10):
        with pytest.raises(ModelNotReady, match=r"failed unexpectedly \(KeyError: 'gguf'\)"):
            await engine.start()
        await engine.aclose()

    assert "failed unexpectedly" in caplog.text


@pytest.mark.parametrize("quantization", ["int4", "int8", "fp8", "gguf"])
async def test_every_quantization_is_served_or_refused(model, tmp_path, quantization):
    """GGUF was neither: loading it never returned."""
    options = VllmOptions(data_dir=tmp_path, python=write_interpreter(tmp_path))
    engine = VllmEngine(model(quantization), options)
    async with asyncio.timeout(10):
        with pytest.raises(ModelNotReady, match="m:v cannot be served by vLLM: "):
            await engine.start()
