"""The real vLLM behind the service: streams, records, deaths. Marked `vllm`."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import psutil
import pytest

from model_registry.catalog import load_catalog
from model_registry.sources.model_files import read_config
from service.engines.vllm.pages import vllm_pages
from service.settings import VllmSettings
from support import tiny_adapters, vllm_here
from support.live_service import LiveService

pytestmark = vllm_here.MARKS

ENTRY = load_catalog().entries["reference-hybrid"]
FOLDER = (ENTRY.file.parent / ENTRY.spec.sources[0].path).resolve()
HELD_BYTES = 1 << 26

TORCH, VLLM = "reference-hybrid", "reference-hybrid:vllm"

#: What another process cannot be asked, or has none of.
NOT_TOLD = {"co_scheduled", "cached_tokens", "workspace_peak_bytes"}


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    """A service with the reference hybrid on torch and on vLLM, both loaded."""
    settings = VllmSettings(python=vllm_here.PYTHON, compile=False, kv_cache_bytes=HELD_BYTES)
    live = LiveService(tmp_path_factory.mktemp("vllm"), slots=8, vllm=settings).start()
    live.client.timeout = 600
    for model in (TORCH, VLLM):
        answered = live.chat("hello", model, max_tokens=1)
        assert answered.status_code == 200, answered.text
    yield live
    live.stop()


def hosted(service, name=VLLM):
    """The model as the service holds it."""
    return service.application.pool.models[name]


@contextmanager
def vllm(service):
    """A way to the model's vLLM itself."""
    transport = httpx.HTTPTransport(uds=str(hosted(service).engine.socket))
    with httpx.Client(transport=transport, base_url="http://vllm") as client:
        yield client


def metric(service, name):
    """Sum of one of vLLM's own metrics."""
    with vllm(service) as client:
        told = client.get("/metrics").text
    return sum(map(float, re.findall(rf"(?m)^vllm:{name}\{{.*\}} (\S+)$", told)))


def chunks(response):
    """The chunks of a stream."""
    for line in response.iter_lines():
        if line.startswith("data: {"):
            yield json.loads(line.removeprefix("data: "))


def stream(service, model, **fields):
    """A streamed chat request, as a context."""
    body = {"model": model, "stream": True, "messages": [{"role": "user", "content": "hello"}]}
    return service.client.stream("POST", "/v1/chat/completions", json=body | fields)


def text_of(service, model, **fields):
    """The whole text of a streamed answer."""
    with stream(service, model, **fields) as response:
        return "".join(
            choice["delta"].get("content") or ""
            for chunk in chunks(response)
            for choice in chunk["choices"]
        )


def shape(value):
    """The names of all that is known in a record."""
    if not isinstance(value, dict):
        return value is not None
    return {name: shape(each) for name, each in value.items() if name not in NOT_TOLD}


def latest(service, model):
    """The newest record of a model."""
    page = service.get("/v1/records", params={"requested_model": model, "limit": 1}).json()
    return page["data"][0]


def test_it_passed_the_probe(service):
    """Copies agree, alone and together agree."""
    assert hosted(service).status().verification == "copies agree; alone and together agree"
    assert hosted(service).verified is True


def test_a_stream_is_the_answer(service):
    """Streamed and whole answers are the same text."""
    fields = {"temperature": 0, "max_tokens": 24}
    whole = service.chat("hello", VLLM, **fields).json()

    assert text_of(service, VLLM, **fields) == whole["choices"][0]["message"]["content"]
    assert whole["usage"]["completion_tokens"] <= 24


def test_a_stop_string_cuts_the_text(service):
    """It is not part of the answer."""
    fields = {"temperature": 0, "max_tokens": 24}
    whole = text_of(service, VLLM, **fields)
    stop = whole[6:9]

    assert text_of(service, VLLM, **fields, stop=stop) == whole[: whole.index(stop)]


def test_records_have_the_form_of_the_torch_engines(service):
    """Everything is known that the torch engine knows, but what another process cannot tell."""
    fields = {"temperature": 0, "max_tokens": 64, "ignore_eos": True}
    for model in (TORCH, VLLM):
        text_of(service, model, **fields)
    ours, theirs = (latest(service, model) for model in (TORCH, VLLM))

    assert shape(theirs) == shape(ours) | {"variant": True}
    assert theirs["build"]["engine"] == "vllm"
    assert theirs["build"]["engine_version"].startswith("vllm")
    assert theirs["build"]["weights_sha256"] == ours["build"]["weights_sha256"]
    assert theirs["prompt_tokens"] == ours["prompt_tokens"]
    assert theirs["queued_ns"] <= theirs["scheduled_ns"] <= theirs["first_ns"] <= theirs["last_ns"]


def test_state_bytes_are_those_of_vllms_blocks(service):
    """Blocks, their size and how many requests fit are what vLLM itself reports."""
    pages = vllm_pages(read_config(FOLDER), max_tokens=2048)
    with vllm(service) as client:
        told = client.get("/metrics").text
    (line,) = (line for line in told.splitlines() if line.startswith("vllm:cache_config_info{"))
    known = dict(re.findall(r'(\w+)="([^"]*)"', line))
    blocks = HELD_BYTES // pages.block_bytes
    text_of(service, VLLM, max_tokens=8, ignore_eos=True)
    record = latest(service, VLLM)
    length = record["prompt_tokens"] + record["completion_tokens"] - 1

    assert int(known["num_gpu_blocks"]) == blocks
    assert int(known["block_size"]) == pages.block_tokens
    assert float(known["kv_cache_max_concurrency"]) == pytest.approx(blocks / pages.blocks(2048))
    assert hosted(service).engine.memory().slots_bytes == blocks * pages.block_bytes
    assert record["state"]["reserved_bytes"] == pages.reserved_bytes(length)
    assert record["state"]["attention_kv_bytes"] == pages.token_bytes * length


def test_its_processes_count_against_the_memory_budget(service):
    """What the model is said to hold is what its processes hold, within a twentieth."""
    engine = hosted(service).engine
    tree = psutil.Process(engine.pid)
    family_bytes = sum(
        each.memory_full_info().pss for each in (tree, *tree.children(recursive=True))
    )
    held = engine.memory()

    assert held.weights_bytes + held.slots_bytes + held.workspace_bytes == pytest.approx(
        family_bytes, rel=0.05
    )
    listed = [
        each["pid"]
        for each in service.get("/v1/memory").json()["processes"]
        if each["name"].startswith(f"vllm {VLLM} ")
    ]

    assert listed[0] == engine.pid
    assert len(listed) >= 3  # server, engine core, worker
    assert (
        family_bytes / 2 < engine.memory_estimate().held_bytes < family_bytes * 2
    )  # libraries are shared


def test_a_client_that_leaves_cancels_in_vllm(service):
    """Nothing runs on for nobody, and the row says `cancelled`."""
    with stream(service, VLLM, max_tokens=1500, ignore_eos=True) as response:
        received = chunks(response)  # kept: the stream is closed with it
        next(received)
        service.until(lambda: metric(service, "num_requests_running") == 1)

    service.until(lambda: metric(service, "num_requests_running") == 0)
    service.until(lambda: latest(service, VLLM)["status"] == "cancelled")


def test_what_does_not_fit_is_the_clients_error(service):
    """As on every engine."""
    refused = service.chat("hello " * 3000, VLLM)

    assert refused.status_code == 400
    assert refused.json()["error"]["code"] == "context_length_exceeded"


@pytest.mark.parametrize("whom", ["server", "worker"])
def test_a_killed_vllm_comes_back(service, whom):
    """Its request fails and leaves its row; the other model goes on; it answers again by itself."""
    engine = hosted(service).engine
    tree = psutil.Process(engine.pid)
    victims = {"server": tree, "worker": tree.children(recursive=True)[-1]}
    restarts = engine.restarts
    with stream(service, VLLM, max_tokens=1500, ignore_eos=True) as response:
        received = chunks(response)
        next(received)
        victims[whom].kill()
        failure = [chunk for chunk in received if "error" in chunk]

    assert failure[-1]["error"]["code"] == "engine_died"
    service.until(lambda: latest(service, VLLM)["status"] == "failed")
    assert latest(service, VLLM)["error_code"] == "engine_died"
    service.until(lambda: hosted(service).status().error is not None)
    assert "It is being started again" in hosted(service).status().error
    assert service.chat("hello", TORCH, max_tokens=4).status_code == 200

    service.until(lambda: engine.trouble() is None, limit_s=300)
    assert engine.restarts == restarts + 1
    assert service.chat("hello", VLLM, max_tokens=4).status_code == 200


def test_a_killed_service_leaves_no_vllm(tmp_path):
    """With the service killed, so are all processes of its vLLM, even of one that still starts."""
    log = tmp_path / "data" / "logs"
    config = tmp_path / "triptych.toml"
    config.write_text(f'preload = ["{VLLM}"]\n[vllm]\npython = "{vllm_here.PYTHON}"\n')
    command = [sys.executable, "-m", "service", "serve", "--port", "0", "--config", str(config)]
    process = subprocess.Popen(
        [*command, "--data-dir", str(tmp_path / "data")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while not any("Resolved architecture" in file.read_text() for file in log.glob("vllm-*.log")):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    family = psutil.Process(process.pid).children(recursive=True)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    _, alive = psutil.wait_procs(family, timeout=30)

    assert any("vllm" in " ".join(each) for each in map(_words, family) if each) or not alive
    assert [each for each in alive if _words(each)] == []


def _words(process):
    """A process's command line, empty once it is gone or waits to be reaped."""
    with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
        return process.cmdline()
    return []


def test_a_start_that_fails_names_vllms_own_error(tmp_path):
    """Not the error of the process that only noticed."""
    settings = VllmSettings(
        python=vllm_here.PYTHON, arguments=("--block-size", "7"), kv_cache_bytes=HELD_BYTES
    )
    live = LiveService(tmp_path, vllm=settings).start()
    live.client.timeout = 300
    try:
        refused = live.chat("hello", "reference-transformer:vllm")
    finally:
        live.stop()

    assert refused.status_code == 503
    assert re.search(r"ended with status \d+: .*block", refused.json()["error"]["message"])
    assert Path(tmp_path / "logs").is_dir()


TUNED = """
id = "tuned"
family = "transformer"
licence = "CC-BY-SA-4.0"
context_tokens = 2048
dtype = "float32"
sources = [{{ kind = "folder", path = "{base}" }}]
variants.torch.adapter = "{adapter}"
variants.vllm = {{ engine = "vllm", adapter = "{adapter}" }}
"""


def test_an_adapter_answers_as_on_the_torch_engine(tmp_path):
    """The same greedy tokens, which are not the base model's."""
    base = (FOLDER.parent / "transformer").resolve()
    tiny_adapters.write("llama", base, tmp_path / "adapter", lora_alpha=64)
    (tmp_path / "tuned.toml").write_text(TUNED.format(base=base, adapter=tmp_path / "adapter"))
    settings = VllmSettings(python=vllm_here.PYTHON, compile=False, kv_cache_bytes=HELD_BYTES)
    live = LiveService(tmp_path / "data", more_models=(str(tmp_path),), vllm=settings).start()
    live.client.timeout = 600
    try:
        base, ours, theirs = (
            text_of(live, model, temperature=0, max_tokens=12)
            for model in ("tuned", "tuned:torch", "tuned:vllm")
        )
    finally:
        live.stop()

    assert theirs == ours != base
