"""kill -9 of an engine's process under load: the others go on, it comes back, no row is missing."""

import contextlib
import os
import signal
import threading
import time
from pathlib import Path

import httpx
import psutil
import pytest

TRIO = ("reference-transformer", "reference-ssm", "reference-hybrid")
VLLM = "reference-transformer:vllm"
VLLM_PYTHON = os.environ.get("TRIPTYCH_VLLM_PYTHON", ".venv-vllm/bin/python")
BACK_S = 180.0


class Load:
    """Clients that ask one model each, again and again."""

    def __init__(self, base_url, models):
        self._base_url = base_url
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(model,)) for model in models]
        self.answers = []
        """(model, when it was asked, status, request id)."""

    def _ask(self, model):
        body = {
            "model": model,
            "max_tokens": 24,
            "stream": True,
            "messages": [{"role": "user", "content": "Find me a restaurant in San Jose."}],
        }
        with httpx.Client(base_url=self._base_url, timeout=BACK_S) as client:
            while not self._ended.is_set():
                asked_s = time.monotonic()
                with client.stream("POST", "/v1/chat/completions", json=body) as answer:
                    text = answer.read().decode()
                whole = answer.status_code == 200 and '"error"' not in text
                self.answers.append((model, asked_s, whole, answer.headers["x-request-id"]))
                time.sleep(0.02 if whole else 0.1)  # an echo that never rests starves the others

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error):
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def well(self, model, since_s):
        """How many answers to requests of after a moment came whole."""
        return sum(
            one == model and whole and asked_s > since_s
            for one, asked_s, whole, _ in list(self.answers)
        )

    def until(self, models, since_s):
        """Wait until each of these models has answered a request of after a moment."""
        deadline = time.monotonic() + BACK_S
        while not all(self.well(model, since_s) for model in models):
            assert time.monotonic() < deadline, self.answers[-5:]
            time.sleep(0.05)


def engine_process(service, word):
    """The process below the service whose command line has a word."""
    for child in psutil.Process(service.process.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if any(word in part for part in child.cmdline()):
                return child
    raise AssertionError(f"no process has {word} in its command line")


def killed_under_load(service, word, *, victims, others):
    """Kill an engine's process while all models answer; every request that was accepted."""
    with Load(service.base_url, (*victims, *others)) as load:
        load.until((*victims, *others), 0)
        process = engine_process(service, word)
        process.send_signal(signal.SIGKILL)
        killed_s = time.monotonic()
        load.until(others, killed_s)
        load.until(victims, killed_s)
    records = {}
    for *_, request_id in load.answers:
        records[request_id] = httpx.get(f"{service.base_url}/v1/records/{request_id}").json()
    failed = {request_id for *_, whole, request_id in load.answers if not whole}
    assert {record["phase"] for record in records.values()} == {"final"}
    assert {records[request_id]["status"] for request_id in failed} <= {"failed", "refused"}
    assert {records[request_id]["model"] for request_id in failed} <= {
        name.partition(":")[0] for name in victims
    } | {None}


@pytest.mark.chaos
def test_a_killed_torch_host_takes_only_its_models_with_it(start_service, echo_options):
    """Echo goes on, the trio is back by itself, and every request has its row."""
    preload = [word for name in TRIO for word in ("--preload", name)]
    service = start_service(*echo_options, *preload)
    service.wait_ready()

    killed_under_load(service, "torch_host", victims=TRIO, others=("echo",))


@pytest.mark.chaos
def test_a_service_whose_host_died_is_not_ready_until_it_is_back(start_service):
    """`/ready` said yes for many seconds, for the models that nobody had loaded yet."""
    service = start_service("--preload", TRIO[0])
    service.wait_ready()
    ready = f"{service.base_url}/ready"
    assert httpx.get(ready).status_code == 200
    engine_process(service, "torch_host").send_signal(signal.SIGKILL)
    killed_s = time.monotonic()
    service._wait(lambda: True if httpx.get(ready).status_code == 503 else None)
    assert time.monotonic() - killed_s < 2
    service._wait(lambda: True if httpx.get(ready).status_code == 200 else None, BACK_S)


@pytest.mark.chaos
@pytest.mark.vllm
@pytest.mark.skipif(not Path(VLLM_PYTHON).exists(), reason="no vLLM here; run `make vllm`")
@pytest.mark.parametrize("word", ["api_server", "EngineCore"])
def test_a_killed_vllm_takes_only_its_model_with_it(start_service, tmp_path, word):
    """The trio goes on, vLLM is back by itself, and every request has its row."""
    config = tmp_path / "config.toml"
    config.write_text(
        f'preload = {[*TRIO, VLLM]}\n[vllm]\npython = "{VLLM_PYTHON}"\ncompile = false\n'
        "threads = 1\nkv_cache_bytes = 134217728\n"
    )
    service = start_service("--config", str(config))
    service.wait_ready()

    killed_under_load(service, word, victims=(VLLM,), others=TRIO)
