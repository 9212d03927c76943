"""A request that takes its engine's process down whenever it runs."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

pytestmark = pytest.mark.chaos


def test_the_third_try_is_refused_and_others_are_answered(serve_tiny):
    """Killed in the step of one request, twice: that one is refused, by name, without a retry."""
    live = serve_tiny(stall_s=120)
    host = live.application.torch_host

    def kill_while_it_runs():
        """SIGKILL in the middle of its answer, as a bug in a kernel would."""
        live.until(lambda: not host._process.last_step())  # the one before has ended
        with ThreadPoolExecutor() as pool:
            asked = pool.submit(live.chat, "boom", model="tiny", ignore_eos=True, max_tokens=200)
            # In its own step, neither before its prefill nor after its last token.
            live.until(host._process.last_step)
            os.kill(host.status.pid, signal.SIGKILL)
            return asked.result()

    for death in (1, 2):
        failed = kill_while_it_runs()
        assert (failed.status_code, failed.json()["error"]["code"]) == (503, "engine_died")
        live.until(lambda: live.chat(model="tiny", max_tokens=2).status_code == 200, 90)
        assert host.status.restarts == death

    refused = live.chat("boom", model="tiny", ignore_eos=True, max_tokens=200)
    assert refused.status_code == 400
    assert refused.json()["error"]["code"] == "poisoned_request"
    record = live.record(refused.headers["x-request-id"])
    assert (record["status"], record["error_code"]) == ("refused", "poisoned_request")
    other = live.chat("bang", model="tiny", ignore_eos=True, max_tokens=200)
    assert other.json()["usage"]["completion_tokens"] == 200
