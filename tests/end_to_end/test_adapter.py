"""A model with an adapter, served beside its base."""

import httpx

from support import tiny_adapters, tiny_text

ENTRY = """
id = "tiny"
family = "transformer"
licence = "Apache-2.0"
context_tokens = 250
dtype = "float32"
sources = [{kind = "folder", path = "base"}]
adapters.tuned = "tuned"

[variants.tuned-int8]
adapter = "tuned"
quantization = "int8"
"""


def test_a_model_and_its_adapter_answer_differently(start_service, tmp_path):
    """Both at once, each under its own name; records say which weights answered."""
    models = tmp_path / "models"
    models.mkdir()
    base = tiny_text.write_model("llama", models / "base")
    tiny_adapters.write("llama", base, models / "tuned")
    (models / "tiny.toml").write_text(ENTRY)
    service = start_service("--models", str(models), "--preload", "tiny", "--preload", "tiny:tuned")
    service.wait_ready()
    texts, hashes = {}, {}
    for name in ("tiny", "tiny:tuned", "tiny:tuned-int8"):
        body = {"model": name, "prompt": "hello", "max_tokens": 24, "temperature": 0}
        answer = httpx.post(f"{service.base_url}/v1/completions", json=body, timeout=120)
        assert answer.status_code == 200, answer.text
        record = httpx.get(
            f"{service.base_url}/v1/records/{answer.headers['x-request-id']}", timeout=20
        ).json()
        texts[name] = answer.json()["choices"][0]["text"]
        hashes[name] = record["build"]["weights_sha256"]
        assert (record["model"], record["verified"]) == ("tiny", True)

    assert texts["tiny"] != texts["tiny:tuned"]
    assert hashes["tiny"] != hashes["tiny:tuned"] == hashes["tiny:tuned-int8"]
