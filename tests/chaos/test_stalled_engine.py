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
    assert "said nothing for 1 s while 1 request waited or ran" in failed.text
    record = live.record(failed.headers["x-request-id"])
    assert (record["status"], record["error_code"]) == ("failed", "engine_died")
    live.until(lambda: live.chat(model="tiny", max_tokens=2).status_code == 200, 90)
    assert live.get("/health/decode").json()["status"] == "idle"
    assert host.status.restarts == 1
