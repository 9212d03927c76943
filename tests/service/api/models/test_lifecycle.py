"""Models are loaded, unloaded, pinned and watched over HTTP."""

import json
import threading

import pytest


def state(live, name):
    return live.get(f"/v1/models/{name}").json()["status"]


def events_until(live, condition, arrived):
    """Changes from the stream until one meets the condition; *arrived* is set after the first."""
    seen = []
    with live.client.stream("GET", "/v1/models/events") as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        for line in response.iter_lines():
            if line.startswith("data: "):
                seen.append(json.loads(line.removeprefix("data: ")))
                arrived.set()
                if condition(seen[-1]):
                    return seen
    raise AssertionError("the stream ended")


def test_a_load_is_answered_at_once_or_when_it_is_done(serve):
    """202 while it loads, 200 when it is loaded, and again 200."""
    live = serve()
    first = live.post("/v1/models/echo:half/load", None)
    assert first.status_code == 202
    waited = live.post("/v1/models/echo:half/load?wait=true", None)
    assert (waited.status_code, waited.json()["status"]["value"]) == (200, "loaded")
    assert live.post("/v1/models/echo:half/load", None).status_code == 200


def test_a_load_that_fails_tells_who_waits(live):
    """With its own status and reason."""
    answer = live.post("/v1/models/broken/load?wait=true", None)
    assert answer.status_code == 424
    assert answer.json()["error"]["code"] == "model_not_ready"


def test_an_unloaded_model_is_loaded_again_by_a_request(serve):
    """Unloading twice is no error."""
    live = serve()
    for _ in range(2):
        answer = live.post("/v1/models/echo/unload", None)
        assert (answer.status_code, answer.json()["status"]["state"]) == (200, "unloaded")
    assert live.chat().status_code == 200
    assert state(live, "echo")["state"] == "ready"


def test_a_pin_is_on_the_card_until_it_is_taken_off(serve):
    """Also on a model that is not loaded."""
    live = serve()
    assert live.post("/v1/models/echo/pin", None).json()["status"]["pinned"] is True
    assert state(live, "echo")["pinned"] is True
    assert 'triptych_model_pinned{model="echo"} 1.0' in live.get("/metrics").text
    assert live.post("/v1/models/echo/unpin", None).json()["status"]["pinned"] is False


@pytest.mark.parametrize("action", ["load", "unload", "pin", "unpin"])
def test_an_unknown_model_is_a_404_and_a_route_is_none(live, action):
    """The error names what was asked for."""
    missing = live.post(f"/v1/models/nobody/{action}", None)
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")
    route = live.post(f"/v1/models/chain/{action}", None)
    assert (route.status_code, route.json()["error"]["code"]) == (400, "invalid_request")


def test_chat_tools_load_and_unload_at_the_root(serve):
    """As llama.cpp's router is spoken to."""
    live = serve()
    assert live.post("/models/unload", {"model": "echo"}).json() == {"success": True}
    assert state(live, "echo")["value"] == "unloaded"
    assert live.post("/models/load", {"model": "echo"}).json() == {"success": True}
    live.until(lambda: state(live, "echo")["value"] == "loaded")
    assert live.post("/models/load", {"model": "nobody"}).status_code == 404


def test_events_show_evictions_and_loads(serve):
    """A snapshot of each model, then who goes for whom."""
    live = serve(preload=("big",), memory_budget=1000)
    seen, arrived = [], threading.Event()

    def watch():
        seen.extend(
            events_until(
                live, lambda one: (one["model"], one["state"]) == ("large", "ready"), arrived
            )
        )

    watching = threading.Thread(target=watch)
    watching.start()
    assert arrived.wait(10)
    assert live.chat(model="large").status_code == 200
    watching.join(10)
    assert seen[0]["event"] == "snapshot"
    states = [(one["model"], one["state"], one["reason"]) for one in seen]
    assert ("big", "unloading", "to make room for large") in states
    assert ("large", "loading", None) in states
    rows = {row["id"]: row for row in live.get("/v1/memory").json()["models"]}
    assert (rows["large"]["predicted_bytes"], rows["large"]["measured_bytes"]) == (600, 600)
    page = live.get("/metrics").text
    assert 'triptych_evictions_total{model="big"} 1.0' in page
    assert 'triptych_loads_total{model="large"} 1.0' in page
    assert "triptych_memory_reserved_bytes 600.0" in page


def test_what_never_fits_is_refused_for_good(serve):
    """OpenAI's clients try a 503 twice more."""
    live = serve(preload=(), memory_budget=1000)
    answer = live.chat(model="huge")
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "does_not_fit")
    assert "retry-after" not in answer.headers
    assert "5.86 KiB" in answer.json()["error"]["message"]
    record = live.get("/v1/records?limit=1").json()["data"][0]
    assert (record["status"], record["error_code"]) == ("refused", "does_not_fit")


def test_a_stream_that_waits_for_memory_is_kept_alive(serve):
    """Comments come while another model's answer ends; the wait is queue and load time."""
    live = serve(preload=("large-slow",), memory_budget=1000, keepalive_s=0.1, probe=False)
    running = threading.Thread(
        target=live.chat, args=("a b c d e f g h i",), kwargs={"model": "large-slow"}
    )
    running.start()
    live.until(lambda: live.requests == 1)
    answer = live.chat("one two", model="large", stream=True)
    running.join(10)
    lines = answer.text.splitlines()
    assert ": keep-alive" in lines[:3]
    assert lines[-2] == "data: [DONE]" or "data: [DONE]" in lines
    record = live.get("/v1/records?limit=10&model=large").json()["data"][0]
    assert record["cold"] is True
    assert record["load_ns"] >= 100_000_000
    assert record["metrics"]["queue_ms"] >= record["load_ns"] / 1e6


def test_watchers_are_told_of_a_shutdown(serve):
    """Their streams broke off."""
    live = serve()

    async def interrupt():
        live.application.chat.interrupt()

    with live.client.stream("GET", "/v1/models/events") as stream:
        lines = stream.iter_lines()
        next(lines)
        live.call(interrupt())
        rest = [line for line in lines if line]
    assert json.loads(rest[-1].removeprefix("data: "))["error"]["code"] == "draining"
