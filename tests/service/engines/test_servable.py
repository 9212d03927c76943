"""Models that cannot be served on this machine are known before they are loaded."""

import json
import sys

import pytest

from model_registry.spec import ModelSpec, ResolvedModel, Variant
from service.engines.servable import refusal


def model(folder, **variant):
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    spec = ModelSpec(
        id="m",
        family="transformer",
        licence="MIT",
        context_tokens=10,
        sources=(),
        variants={"v": Variant(**variant)},
    )
    return ResolvedModel(spec=spec, variant="v", path=str(folder), weights_sha256=None)


@pytest.mark.parametrize("quantization", [None, "int8", "int4"])
def test_what_the_torch_engine_has_is_not_refused(tmp_path, quantization):
    """Quantized while it loads, if it was not before."""
    assert refusal(model(tmp_path, quantization=quantization)) is None


def test_a_quantization_that_the_engine_lacks_is_refused(tmp_path):
    """By its name."""
    assert "fp8" in refusal(model(tmp_path, quantization="fp8"))


def test_gguf_needs_its_file(tmp_path):
    """The reason says how to get it."""
    assert "models pull m --source" in refusal(model(tmp_path, quantization="gguf"))
    (tmp_path / "source.gguf").touch()
    assert refusal(model(tmp_path, quantization="gguf")) is None


def test_vllm_must_be_here(tmp_path, monkeypatch):
    """Or be configured, and there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert "make vllm" in refusal(model(tmp_path, engine="vllm"))
    gone = refusal(model(tmp_path, engine="vllm"), vllm_python="/nowhere/python")
    assert "does not exist" in gone
    assert refusal(model(tmp_path, engine="vllm"), vllm_python=sys.executable) is None


@pytest.mark.parametrize(
    ("quantization", "words"), [("int4", "quantized before"), ("gguf", "GGUF")]
)
def test_what_vllm_cannot_load_is_refused(tmp_path, quantization, words):
    """Without starting it."""
    wanted = model(tmp_path, engine="vllm", quantization=quantization)
    assert words in refusal(wanted, vllm_python=sys.executable)
