"""Probes, metrics and the API's own description."""

import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest


def test_health_names_loaded_and_degraded_models(live):
    """Always 200: one model's trouble is not the service's death."""
    live.chat(model="broken")
    response = live.get("/health")
    body = response.json()
    assert response.status_code == 200
    assert "echo" in body["loaded"]
    assert {"model": "broken", "error": "no memory for it"} in body["degraded"]


def test_a_service_without_models_to_load_at_start_is_ready(serve):
    """Its models load when they are asked for."""
    body = serve(preload=()).get("/ready").json()
    assert body == {"ready": True, "reason": "models load on demand"}


@pytest.mark.parametrize("path", ["/health", "/health/decode", "/ready", "/livez", "/metrics"])
def test_probes_answer_head_as_get_without_the_body(live, path):
    """Load balancers probe by HEAD, and got 405."""
    response = live.client.head(path)
    assert (response.status_code, response.content) == (live.get(path).status_code, b"")


def test_a_load_on_demand_leaves_the_service_ready(serve):
    """Requests wait for the load; `/ready` said 503 while the only model was loading."""
    live = serve(preload=())
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(live.chat, model="heavy")
        live.until(lambda: "heavy" in live.get("/health").json()["loading"])
        assert live.get("/ready").status_code == 200
        assert asked.result().status_code == 200


def test_nothing_is_stalled_where_nothing_runs(live):
    """Engines without steps of their own have no pulse; that is no fault."""
    response = live.get("/health/decode")
    assert response.status_code == 200
    assert response.json() == {"status": "idle", "running": 0, "silent_s": None, "stalled": []}


def test_metrics_are_for_prometheus(live):
    """In its text format, with the requests in flight."""
    response = live.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    assert "triptych_requests_in_flight" in response.text


def test_the_runtime_is_known_before_its_process_runs(live):
    """Threads are chosen at the start; what only the process knows is null until then."""
    body = live.get("/v1/runtime").json()
    assert (body["state"], body["pid"], body["engine_version"]) == ("stopped", None, None)
    assert body["threads"] >= 1
    assert body["models"] == []


def test_the_description_is_openapi_3_1_and_knows_every_route(live):
    """Every path that clients use, with the bodies that they send."""
    body = live.get("/schema/openapi.json").json()
    assert body["openapi"].startswith("3.1")
    for path in (
        "/v1/chat/completions", "/v1/completions", "/v1/models", "/v1/models/{model_id}",
        "/v1/compare", "/v1/records", "/v1/records/summary", "/tokenize", "/detokenize",
        "/tokenizer_info", "/health", "/health/decode", "/ready",
        "/livez", "/metrics", "/v1/runtime",
        "/m/{model}/v1/completions", "/m/{model}/tokenize",
    ):  # fmt: skip
        assert path in body["paths"], path
    chat = body["paths"]["/v1/chat/completions"]["post"]
    assert chat["requestBody"]["content"]["application/json"]["schema"]["$ref"].endswith(
        "ChatCompletionBody"
    )
    answer = chat["responses"]["200"]["content"]["application/json"]["schema"]["$ref"]
    assert answer.endswith("ChatCompletion")


def test_the_description_is_made_while_streams_go_on(serve):
    """It takes most of a second; on the event loop it would stop every stream for so long."""
    live = serve()
    live.chat("load it", model="slow")
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(live.get, "/schema/openapi.json")
        record = live.record(live.chat("w " * 30, model="slow").headers["x-request-id"])
        assert asked.result().status_code == 200
    assert record["itl_max_ns"] < 300e6


def test_the_page_takes_nothing_from_elsewhere(live):
    """Page, script and style come from this service, and a policy holds them to it."""
    page = live.get("/docs")
    assert page.status_code == 200
    assert not re.findall(r"(?:https?:)?//[\w.]+", page.text)
    assert page.headers["content-security-policy"].startswith("default-src 'self'")
    for asset in re.findall(r'(?:src|href)="([^"]+)"', page.text):
        assert live.get(asset).status_code == 200, asset
    assert "/schema/openapi.json" in live.get("/docs/page.js").text


def test_beside_the_description_there_is_nothing(live):
    """The framework's own pages would have other error bodies."""
    response = live.get("/schema/other")
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "not_found"


def test_the_page_gives_out_no_other_files(live):
    """Names are looked up; they are no paths."""
    assert live.get("/docs/index.html").status_code == 404
    assert live.get("/docs/..%2f..%2f__init__.py").status_code == 404


def test_the_application_needs_no_model_library_and_is_there_in_a_moment():
    """A fresh process imports it without torch or transformers, in about a second."""
    code = (
        "import sys, service.app; "
        "print(*({'torch', 'transformers', 'tokenizers', 'numpy'} & set(sys.modules)))"
    )
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
    assert time.perf_counter() - started < 5  # about 1 s alone; tests share their cores
