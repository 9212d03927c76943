"""The supervised torch host: load, unload, death, recovery and its end."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from contextlib import aclosing
from pathlib import Path

import msgspec
import psutil
import pytest

from service.core.chat import ChatRequest, Sampling, TextPrompt
from service.core.errors import ContextOverflow, EngineFailed, InvalidRequest, ModelNotReady
from service.core.events import Delta, Finished
from service.core.ports import Engine, LoadReporting, Supervised, Tokenizing
from service.engines.torch.engine import TorchEngine
from service.engines.torch.host import TorchHost
from service.engines.torch.options import TorchOptions
from service.engines.torch.protocol.messages import FrameTooLarge, Generate, frame
from support.waiting import until


@pytest.fixture(scope="module")
def run():
    """Run a coroutine on one event loop for the whole module."""
    with asyncio.Runner() as runner:
        yield runner.run


@pytest.fixture(scope="module")
def host(run, tmp_path_factory):
    """A host that these tests share; the one that kills it lets it recover."""
    host = TorchHost(
        TorchOptions(data_dir=tmp_path_factory.mktemp("host"), slots=4, prefill_chunk_tokens=16)
    )
    yield host
    run(host.aclose())


@pytest.fixture
def engine(run, host, chattable, request):
    """A loaded model of the shared host."""
    engine = TorchEngine(chattable(f"tiny-{abs(hash(request.node.name)) % 10**6}"), host)
    run(engine.start())
    yield engine
    run(engine.aclose())


def request(request_id="r", **sampling):
    return ChatRequest(
        request_id=request_id,
        model="any",
        prompt=TextPrompt("hello the end"),
        sampling=Sampling(**{"ignore_eos": True, **sampling}),
        accepted_ns=0,
        accepted_at_ns=0,
    )


async def answer(engine, **sampling):
    async with aclosing(engine.generate(request(**sampling))) as events:
        return [event async for event in events]


async def first_delta(events):
    async for event in events:
        if isinstance(event, Delta):
            return


def test_it_keeps_every_protocol(engine):
    """A torch engine can tokenize, report its load and its trouble."""
    of_engine: Engine = engine

    assert isinstance(of_engine, Tokenizing)
    assert isinstance(of_engine, LoadReporting)
    assert isinstance(of_engine, Supervised)


def test_a_text_that_cannot_fit_is_not_sent_to_the_host(run, host, engine, monkeypatch):
    """A megabyte of text is refused by its bytes, before anybody tokenizes it."""
    monkeypatch.setattr(host, "send", None)
    long = msgspec.structs.replace(request(), prompt=TextPrompt("hello the " * 100_000))

    async def ask():
        async with aclosing(engine.generate(long)) as events:
            await anext(events)

    with pytest.raises(ContextOverflow, match="at least"):
        run(ask())


def test_a_loaded_model_has_no_trouble(engine, host):
    """After the load its memory is known, and the host says how it fares."""
    status = host.status

    assert engine.trouble() is None
    assert engine.memory().weights_bytes > 0
    assert engine.memory().slots_total == 4
    assert (status.state, status.restart_in_s) == ("running", None)
    assert "transformers" in status.engine_version
    assert psutil.pid_exists(status.pid)


def test_the_runtime_says_what_was_chosen(run, chattable, tmp_path, monkeypatch, caplog):
    """Process, threads and each model's kernels are shown and logged; step times once measured."""
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.setenv("GOMP_SPINCOUNT", "10")
    caplog.set_level("INFO", "service.engines.torch")
    options = TorchOptions(
        data_dir=tmp_path, slots=3, prefill_chunk_tokens=7, max_itl_ms=50, kernels="eager",
        threads=1,
    )  # fmt: skip
    host = TorchHost(options)
    engine = TorchEngine(chattable("chosen"), host)
    try:
        run(engine.start())
        before = host.runtime
        run(answer(engine, max_tokens=4))
        run(until(lambda: host.runtime.models[0].decode_step_ns is not None))
        (model,) = host.runtime.models
    finally:
        run(host.aclose())

    assert (before.pid, before.state) == (before.pid or 0, "running")
    assert (before.threads, before.wait_policy, before.spin_count) == (1, None, 10)
    assert (before.device, before.models[0].decode_step_ns) == ("cpu", None)
    assert (model.id, model.kernel_path, model.dtype) == (
        "chosen", "transformers-eager", "float32",
    )  # fmt: skip
    assert (model.slots, model.prefill_chunk_tokens, model.max_itl_ms) == (3, 7, 50)
    assert model.decode_step_requests == 1
    assert model.prefill_token_ns > 0
    assert any("1 threads" in line and "transformers" in line for line in caplog.messages)
    assert "chosen runs on transformers-eager, float32" in caplog.messages
    assert host.runtime.models == ()


def test_a_load_reports_its_stages(run, host, chattable):
    """Tokenizer, weights with their bytes, and slots are reported; afterwards nothing is."""
    engine = TorchEngine(chattable("reported"), host)
    seen = []
    receive = engine.receive
    engine.receive = lambda message: (receive(message), seen.append(engine.load_progress()))
    run(engine.start())
    seen = [progress for progress in seen if progress is not None]
    stages = [progress.stage for progress in seen]
    weights = [progress for progress in seen if progress.stage == "weights"]
    run(engine.aclose())

    assert list(dict.fromkeys(stages)) == ["tokenizer", "weights", "slots"]
    assert weights[-1].done_bytes == weights[-1].total_bytes > 0
    assert engine.load_progress() is None


def test_a_model_that_cannot_be_loaded_says_why(run, host, chattable, tmp_path, engine):
    """A folder without files is refused with the reason; other models are served on."""
    broken = TorchEngine(chattable("broken", tmp_path), host)
    with pytest.raises(ModelNotReady, match=r"tokenizer\.json"):
        run(broken.start())

    assert "not loaded" in broken.trouble()
    assert isinstance(run(answer(engine, max_tokens=2))[-1], Finished)


def test_a_cancelled_load_is_undone(run, host, chattable):
    """A load that nobody waits for any more can be started again."""
    engine = TorchEngine(chattable("cancelled"), host)

    async def cancel_and_start():
        for number in range(3):
            loading = asyncio.create_task(engine.start())
            await asyncio.sleep(0.002 * number)
            loading.cancel()
            await asyncio.wait([loading])
            assert loading.cancelled()
        assert engine.trouble() is not None
        await engine.start()
        return await answer(engine, max_tokens=2)

    assert isinstance(run(cancel_and_start())[-1], Finished)
    run(engine.aclose())


def test_unloading_fails_what_runs(run, host, chattable):
    """A running request is told, and later ones are refused."""
    engine = TorchEngine(chattable("unloaded"), host)

    async def unload():
        await engine.start()
        async with aclosing(engine.generate(request())) as events:
            await first_delta(events)
            await engine.aclose()
            async for _ in events:
                pass

    with pytest.raises(EngineFailed, match="unloaded"):
        run(unload())
    with pytest.raises(EngineFailed, match="not loaded"):
        run(answer(engine))


def test_a_request_id_is_used_once_at_a_time(run, engine):
    """A second request with the id of a running one is refused and does not disturb it."""

    async def twice():
        async with aclosing(engine.generate(request(max_tokens=30))) as events:
            await first_delta(events)
            with pytest.raises(InvalidRequest, match="in use"):
                await answer(engine)
            return [event async for event in events]

    assert run(twice())[-1].completion_tokens == 30


def test_a_request_too_large_for_a_frame_is_refused_alone(run, engine, monkeypatch):
    """It is not sent, the connection is kept, and the next request is answered."""

    def encode(message):
        if isinstance(message, Generate):
            raise FrameTooLarge("a message of 9 bytes exceeds the limit of 8")
        return frame(message)

    with monkeypatch.context() as patched:
        patched.setattr("service.engines.torch.protocol.frames.frame", encode)
        with pytest.raises(InvalidRequest, match="too large for the engine: a message of 9 bytes"):
            run(answer(engine))

    assert isinstance(run(answer(engine, max_tokens=2))[-1], Finished)


def test_ctrl_c_is_not_for_the_host(run, host, engine):
    """An interrupt does not end it: the service decides."""
    os.kill(host.status.pid, signal.SIGINT)

    assert isinstance(run(answer(engine, max_tokens=5))[-1], Finished)


def test_a_killed_host_fails_its_requests_and_comes_back(run, host, engine):
    """Kill -9 in the middle of an answer: a clear error, then restart, reload and an answer."""

    async def kill():
        async with aclosing(engine.generate(request())) as events:
            await first_delta(events)
            os.kill(host.status.pid, signal.SIGKILL)
            async for _ in events:
                pass

    with pytest.raises(EngineFailed, match="SIGKILL"):
        run(kill())
    assert not host.alive
    assert "SIGKILL" in engine.trouble()
    with pytest.raises(EngineFailed) as caught:
        run(answer(engine))
    assert 0 < caught.value.retry_after_s <= 1
    run(until(lambda: engine.trouble() is None))

    assert host.status.restarts == 1
    assert run(answer(engine, max_tokens=3))[-1].completion_tokens == 3


def test_the_socket_is_for_this_user_alone(run, engine, host):
    """Its folder is closed to others, and the socket is gone once the host has connected."""
    folder = host.options.data_dir / "run"

    assert folder.stat().st_mode & 0o077 == 0


def test_a_load_that_kills_the_host_is_reported(run, chattable, tmp_path, monkeypatch):
    """A host that ends before it serves fails the load with its last words."""
    monkeypatch.setattr("service.engines.torch.process.sys.executable", "/bin/false")
    host = TorchHost(TorchOptions(data_dir=tmp_path, threads=1))
    with pytest.raises(ModelNotReady, match="ended with status 1"):
        run(TorchEngine(chattable(), host).start())

    assert host.status.state == "restarting"
    run(host.aclose())


def test_closing_ends_the_host_and_what_runs(run, chattable, tmp_path):
    """The child is gone within seconds; running requests fail; the host stays closed."""
    host = TorchHost(
        TorchOptions(data_dir=tmp_path / ("a-long-folder-name-" * 6))  # its socket lies elsewhere
    )
    engine = TorchEngine(chattable(), host)

    async def close():
        await engine.start()
        pid = host.status.pid
        async with aclosing(engine.generate(request())) as events:
            await first_delta(events)
            begun = time.monotonic()
            await host.aclose()
            took_s = time.monotonic() - begun
            with pytest.raises(EngineFailed, match="shutting down"):
                async for _ in events:
                    pass
        return pid, took_s

    pid, took_s = run(close())

    assert not psutil.pid_exists(pid)
    assert took_s < 5
    with pytest.raises(ModelNotReady, match="shutting down"):
        run(engine.start())


def test_the_host_dies_with_its_parent(chattable, tmp_path):
    """Kill -9 of the service leaves no host behind."""
    script = Path(__file__).with_name("orphaned_parent.py")
    model = msgspec.json.encode(chattable()).decode()
    parent = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path), model], stdout=subprocess.PIPE, text=True
    )
    with parent:
        try:
            host = psutil.Process(int(parent.stdout.readline()))
        finally:
            parent.kill()

    assert psutil.wait_procs([host], timeout=10)[1] == []


@pytest.mark.parametrize(
    "environment",
    [{}, {"OMP_NUM_THREADS": "2"}, {"GOMP_SPINCOUNT": "1", "OMP_NUM_THREADS": "3"}],
)
def test_the_host_refuses_an_environment_that_torch_would_misread(environment):
    """Endlessly spinning or uncounted threads are refused before torch is imported."""
    kept = {"PATH": os.environ["PATH"], **environment}
    command = [
        sys.executable,
        "-m",
        "service.torch_host.__main__",
        "--socket",
        "x",
        "--threads",
        "2",
    ]
    ended = subprocess.run(command, env=kept, capture_output=True, text=True, check=False)

    assert ended.returncode == os.EX_USAGE
    assert "before torch is imported" in ended.stderr


def test_the_service_imports_no_torch():
    """Neither the host's client nor the factory brings torch into the service's process."""
    code = (
        "import sys, service.engines, service.engines.torch.engine, service.engines.echo; "
        "sys.exit(bool({'torch', 'transformers', 'tokenizers', 'jinja2'} & set(sys.modules)))"
    )

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
