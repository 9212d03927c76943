"""Another Triptych behind this one: what its requests leave here."""

import httpx
import pytest

from support.live_service import LiveService


@pytest.fixture
def pair(tmp_path):
    """This service and the one whose models it names `far` and `far-slow`."""
    far = LiveService(tmp_path / "far-side").start()
    models = tmp_path / "remote-models"
    models.mkdir()
    limits = {"far-hung": "first_byte_s = 0.2"}
    for name, model in {"far": "echo", "far-slow": "slow", "far-hung": "late"}.items():
        (models / f"{name}.toml").write_text(
            f'id = "{name}"\nfamily = "ssm"\nlicence = "Apache-2.0"\ncontext_tokens = 4096\n'
            f'sources = []\nengine = "openai"\n[remote]\nbase_url = "{far.base_url}/v1"\n'
            f'model = "{model}"\n{limits.get(name, "")}\n'
        )
    near = LiveService(
        tmp_path / "near-side", more_models=(str(models),), preload=("far", "far-slow")
    ).start()
    near.until(lambda: {"far", "far-slow"} <= set(near.get("/health").json()["loaded"]))
    yield near, far
    near.stop()
    far.stop()


def final(service, request_id):
    """The record once it is final."""
    service.until(lambda: service.record(request_id).get("phase") == "final")
    return service.record(request_id)


def test_its_record_is_whole(pair):
    """Counts and times that come last are in the record, and the times add up."""
    near, _ = pair
    answer = near.chat("one two three", model="far")
    record = final(near, answer.headers["x-request-id"])
    metrics = record["metrics"]
    parts = [metrics[f"{name}_ms"] for name in ("preprocess", "queue", "prefill", "decode")]

    assert answer.json()["choices"][0]["message"]["content"] == "one two three"
    assert (record["status"], record["verified"]) == ("ok", True)
    assert record["completion_tokens"] == answer.json()["usage"]["completion_tokens"] == 5
    assert record["build"]["engine"] == "triptych"
    assert record["itl_p50_ns"] is not None
    assert sum(parts) == pytest.approx(metrics["e2e_ms"])


def test_a_client_that_leaves_is_cancelled_on_both_sides(pair):
    """Neither side goes on; each leaves one record that says so."""
    near, far = pair
    body = {
        "model": "far-slow",
        "messages": [{"role": "user", "content": "one two three"}],
        "ignore_eos": True,
        "stream": True,
    }
    with near.client.stream("POST", "/v1/chat/completions", json=body) as response:
        next(response.iter_lines())
        request_id = response.headers["x-request-id"]
    record = final(near, request_id)
    far.until(lambda: far.requests == 0)
    (theirs,) = far.get("/v1/records", params={"status": "cancelled"}).json()["data"]

    assert record["status"] == "cancelled"
    assert theirs["model"] == "slow"


def test_a_server_that_hangs_fails_its_request_in_time(pair):
    """It was once waited for for ever; the record says that the request failed."""
    near, far = pair
    pool = far.application.pool
    hung = near.chat(model="far-hung")
    record = final(near, hung.headers["x-request-id"])

    assert hung.status_code == httpx.codes.SERVICE_UNAVAILABLE
    assert "sent nothing for 0.2 s" in hung.json()["error"]["message"]
    assert (record["status"], record["error_code"]) == ("failed", "engine_failed")
    far.until(lambda: pool.requests == 0)


def test_a_server_that_went_away_fails_its_requests_and_is_named(pair):
    """By its model, not its address; after three failures the service calls itself degraded."""
    near, far = pair
    far.stop()
    for _ in range(3):
        refused = near.chat(model="far")
        assert refused.status_code >= httpx.codes.INTERNAL_SERVER_ERROR
        assert refused.json()["error"]["code"] == "engine_failed"
        assert "the server of far" in refused.json()["error"]["message"]
        assert far.base_url.removeprefix("http://") not in refused.text
    health = near.get("/health").json()

    assert health["status"] == "degraded"
    assert [each["model"] for each in health["degraded"]] == ["far"]
    assert near.chat(model="echo").status_code == httpx.codes.OK
