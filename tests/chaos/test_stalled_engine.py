"""An engine's process that is alive and does nothing."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

pytestmark = pytest.mark.chaos


def test_a_stopped_host_is_killed_and_comes_back(serve_tiny):
    """SIGSTOP: what waited fails and leaves its row, others are answered, and the model returns."""
    live = serve_tiny(stall_s=1.0)
    host = live.application.torch_host
    os.kill(host.status.pid, signal.SIGSTOP)
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(live.chat, "wait", model="tiny")
        live.until(lambda: live.get("/health/decode").json()["running"] == 1)
        assert live.chat(model="echo").status_code == 200
        live.until(lambda: live.get("/health/decode").status_code == 503)
        failed = asked.result()

    assert failed.status_code == 503
    assert failed.json()["error"]["code"] == "engine_died"
    assert "sent no heartbeat for 1 s while 1 request waited or ran" in failed.text
    record = live.record(failed.headers["x-request-id"])
    assert (record["status"], record["error_code"]) == ("failed", "engine_died")
    live.until(lambda: live.chat(model="tiny", max_tokens=2).status_code == 200, 90)
    assert live.get("/health/decode").json()["status"] == "idle"
    assert host.status.restarts == 1


def test_a_stopped_host_does_not_keep_its_models_from_being_unloaded(serve_tiny):
    """It is killed as one that stops during a request is; the unload waited for ever."""
    live = serve_tiny(stall_s=1.0)
    os.kill(live.application.torch_host.status.pid, signal.SIGSTOP)
    unloaded = live.post("/v1/models/tiny/unload", None)
    assert unloaded.status_code == 200
    assert unloaded.json()["status"]["state"] == "unloaded"
    assert live.chat(model="tiny", max_tokens=2, timeout_s=90).status_code == 200


def test_a_load_that_meets_a_stopped_host_fails(serve_tiny):
    """It ends with the host; only a load that the host had begun was seen to hang."""
    live = serve_tiny(stall_s=1.0)
    assert live.post("/v1/models/tiny/unload", None).status_code == 200
    os.kill(live.application.torch_host.status.pid, signal.SIGSTOP)
    failed = live.post("/v1/models/tiny/load?wait=true", None)
    assert failed.status_code == 424
    assert "sent no heartbeat for 1 s while it had loads" in failed.text


def test_a_stopped_host_does_not_keep_the_service_from_ending(serve_tiny):
    """It is killed at shutdown; the service waited for ever for it to unload its models."""
    live = serve_tiny(stall_s=600.0)
    pid = live.application.torch_host.status.pid
    os.kill(pid, signal.SIGSTOP)
    live.stop()
    assert not live.running
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
