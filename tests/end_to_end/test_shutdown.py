"""What a shutdown says to those whom it does not wait for."""

import json
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import httpx
import pytest

from service.core.ports import RecordFilter
from service.storage import open_store

PACED = """
id = "paced"
family = "transformer"
licence = "Apache-2.0"
context_tokens = 4096
engine = "echo"
sources = []
[architecture]
itl_ms = 20
slots = 2
"""
HEAVY = PACED.replace("paced", "heavy").replace("itl_ms = 20", "load_ms = 20000")
LONG = "word " * 2000


@pytest.fixture
def paced(start_service, tmp_path):
    """Start a service with one slow model that answers two at once: `paced(drain_s)`."""

    def start(drain_s):
        (tmp_path / "models").mkdir()
        (tmp_path / "models" / "paced.toml").write_text(PACED)
        (tmp_path / "models" / "heavy.toml").write_text(HEAVY)
        (tmp_path / "settings.toml").write_text(f"drain_s = {drain_s}\n")
        service = start_service(
            "--models", str(tmp_path / "models"), "--preload", "paced",
            "--config", str(tmp_path / "settings.toml"),
        )  # fmt: skip
        service.wait_ready()
        return service

    return start


def ask(service, **fields):
    body = {"model": "paced", "messages": [{"role": "user", "content": LONG}], **fields}
    return httpx.post(f"{service.base_url}/v1/chat/completions", json=body, timeout=60)


def running(service, count):
    def so_many():
        page = httpx.get(f"{service.base_url}/metrics").text
        return f"triptych_requests_in_flight {count:.1f}" in page or None

    service._wait(so_many)


def statuses(service):
    store = open_store(f"sqlite:///{service.data_dir / 'records.db'}")
    with closing(store):
        page = store.page(RecordFilter(), limit=10, cursor=None)
    return sorted((record.status, record.error_code) for record in page.records)


def test_answers_that_outlast_the_drain_are_told(paced):
    """Streams broke off and whole answers got a plain-text 500; records said `cancelled`."""
    service = paced(drain_s=1)
    with ThreadPoolExecutor(4) as pool:
        stream = pool.submit(ask, service, stream=True)
        whole = pool.submit(ask, service)
        running(service, 2)
        queued = pool.submit(ask, service)
        running(service, 3)
        service.process.send_signal(signal.SIGTERM)
        service._wait(
            lambda: True if httpx.get(f"{service.base_url}/ready").status_code == 503 else None
        )
        refused = ask(service)  # connections are accepted while the service drains
        assert service.process.wait(20) == 0
    assert refused.status_code == 503
    assert refused.json()["error"]["code"] == "draining"
    events = [event for event in stream.result().text.split("\n\n") if event]
    assert json.loads(events[-1].removeprefix("data: "))["error"]["code"] == "draining"
    for answer in (whole.result(), queued.result()):
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "draining"
        assert int(answer.headers["retry-after"]) >= 1
    assert statuses(service) == [("interrupted", "draining")] * 3 + [("refused", "draining")]


def test_a_second_signal_ends_the_drain(paced):
    """Those who run are told at once."""
    service = paced(drain_s=60)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(ask, service)
        running(service, 1)
        began_s = time.monotonic()
        service.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        assert service.process.poll() is None
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(20) == 0
    assert time.monotonic() - began_s < 15
    assert answer.result().json()["error"]["code"] == "draining"
    assert statuses(service) == [("interrupted", "draining")]


def test_whoever_waits_for_a_load_is_told(paced):
    """An operator's call was cut off with a plain-text 500, and logged as a bug."""
    service = paced(drain_s=1)
    with ThreadPoolExecutor(1) as pool:
        load = pool.submit(
            httpx.post, f"{service.base_url}/v1/models/heavy/load?wait=true", timeout=60
        )
        service._wait(
            lambda: httpx.get(f"{service.base_url}/health").json()["loading"] == ["heavy"] or None
        )
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(20) == 0
    assert load.result().status_code == 503
    assert load.result().json()["error"]["code"] == "draining"
    assert int(load.result().headers["retry-after"]) >= 1
    assert "ERROR" not in service.output()
