"""Shadows that are killed, cut off, or in the way: the primary's answer is as without them."""

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from service.core.routes.route import Shadowed, ShadowRoute

pytestmark = pytest.mark.chaos

PROMPT = "boom bang"


def route(shadow, **options):
    return {"mirrored": ShadowRoute(primary="echo", shadows=(Shadowed(model=shadow),), **options)}


def shadows_of(live, request_id):
    rows = live.get("/v1/records", params={"limit": 1000}).json()["data"]
    return [row for row in rows if row["shadow_of"] == request_id]


def ended(live, request_id):
    return [row for row in shadows_of(live, request_id) if row["phase"] == "final"]


def stream_of(live, **fields):
    """Events of a primary's stream without ids, times and counts of the moment."""
    response = live.chat(PROMPT, model="mirrored", stream=True, **fields)
    lines = [line for line in response.text.splitlines() if line.startswith("data: ")]
    return response, [line.split('"choices":')[-1].split('"metrics"')[0] for line in lines]


def test_a_shadow_killed_in_its_step_leaves_a_row_and_the_primary_whole(serve_tiny):
    """SIGKILL of the torch host while it computes the shadow."""
    live = serve_tiny(stall_s=120, routes=route("tiny"))
    host = live.application.torch_host
    live.until(lambda: not host._process.last_step())
    response, events = stream_of(live, max_tokens=200, ignore_eos=True)
    request_id = response.headers["x-request-id"]
    live.until(host._process.last_step)  # the shadow's step
    os.kill(host.status.pid, signal.SIGKILL)
    live.until(lambda: ended(live, request_id))
    (shadow,) = shadows_of(live, request_id)
    assert (shadow["status"], shadow["error_code"]) == ("failed", "engine_died")
    primary = live.record(request_id)
    assert (primary["status"], primary["completion_tokens"]) == ("ok", 200)
    assert events[-1] == "data: [DONE]"
    assert len(events) == 202  # 200 tokens, the end, [DONE]
    live.until(lambda: live.chat(model="tiny", max_tokens=2).status_code == 200, 90)


def test_a_client_that_comes_ends_a_running_shadow_in_the_host(serve_tiny):
    """Its slot is free again long before it would have been done."""
    live = serve_tiny(stall_s=120, routes=route("tiny"))
    host = live.application.torch_host
    response, _ = stream_of(live, max_tokens=200, ignore_eos=True)
    live.until(host._process.last_step)
    answered = live.chat(model="tiny", max_tokens=4)
    assert answered.status_code == 200
    assert live.record(answered.headers["x-request-id"])["co_scheduled"] in (None, 0, 1)
    live.until(lambda: ended(live, response.headers["x-request-id"]))
    (shadow,) = shadows_of(live, response.headers["x-request-id"])
    assert (shadow["status"], shadow["error_code"]) == ("interrupted", "shadow_yielded")


def test_a_burst_has_a_row_for_every_shadow_and_answers_as_without_any(serve):
    """Queue filled, waits expired, runs cut: rows of all kinds add up to the requests."""
    asked = 40
    plain = serve(preload=("echo",))
    wanted = plain.chat(PROMPT).json()["choices"][0]["message"]["content"]
    plain.stop()
    live = serve(
        routes=route("slow", max_queued=4, max_wait_s=0.5, timeout_s=0.05),
        preload=("echo", "slow"),
        probe=False,
    )
    with ThreadPoolExecutor(8) as pool:
        responses = list(pool.map(lambda _: live.chat(PROMPT, model="mirrored"), range(asked)))
    assert {r.json()["choices"][0]["message"]["content"] for r in responses} == {wanted}
    ids = [r.headers["x-request-id"] for r in responses]
    live.until(lambda: all(ended(live, request_id) for request_id in ids[-1:]))
    live.until(lambda: live.application.chat.shadows.idle)
    rows = {request_id: shadows_of(live, request_id) for request_id in ids}
    assert {len(found) for found in rows.values()} == {1}
    codes = {found[0]["error_code"] for found in rows.values()}
    assert "shadow_skipped" in codes
    assert {found[0]["phase"] for found in rows.values()} == {"final"}
    assert live.requests == 0


def test_a_service_that_is_killed_leaves_waiting_shadows_interrupted(serve):
    """A shadow's row is accepted when it begins to wait; shutdown ends it."""
    live = serve(routes=route("other", max_wait_s=60), preload=("echo", "slow"), probe=False)
    with ThreadPoolExecutor() as pool:
        busy = pool.submit(live.chat, "word " * 60, model="slow")
        live.until(lambda: live.requests == 1)
        request_id = live.chat(model="mirrored").headers["x-request-id"]
        time.sleep(0.1)
        (waiting,) = shadows_of(live, request_id)
        assert (waiting["phase"], waiting["status"]) == ("accepted", "running")
        live.application.chat.shadows.close()
        live.until(lambda: ended(live, request_id))
        assert ended(live, request_id)[0]["error_code"] == "draining"
        busy.result()
