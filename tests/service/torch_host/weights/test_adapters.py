"""Adapters against PEFT's own arithmetic, and those that are refused by name."""

import json

import msgspec
import pytest
import torch
from safetensors.torch import load_file, save_file

from model_registry.spec import Variant
from service.core.errors import ModelNotReady
from service.torch_host.weights.loading import load
from support import tiny_adapters, tiny_models
from support.tiny_adapters import PROMPT

ROUNDING = 1e-4
"""Logits have a standard deviation of about 1.5; sums are taken in another order."""


def tuned(name, base, adapter, *, dtype="float32", quantization=None):
    """A tiny model with an adapter, as the registry hands it over."""
    plain = tiny_models.resolved(name, base, dtype=dtype)
    variant = Variant(adapter=str(adapter), quantization=quantization)
    spec = msgspec.structs.replace(plain.spec, variants={"tuned": variant})
    return msgspec.structs.replace(plain, spec=spec, variant="tuned", adapter_path=str(adapter))


def logits(resolved, kernels="auto"):
    """Of PROMPT, (tokens, vocabulary)."""
    model = load(resolved, slots=1, progress=lambda _: None, kernels=kernels)
    try:
        with torch.inference_mode():
            return model.prefill(model.take(), PROMPT, every_logit=True)
    finally:
        model.close()


@pytest.fixture
def adapter(tiny_folder, tmp_path):
    """A llama's adapter, as files that a test may spoil."""
    tiny_adapters.write("llama", tiny_folder("llama"), tmp_path)
    return tmp_path


def refusal(base, adapter):
    with pytest.raises(ModelNotReady) as caught:
        load(tuned("llama", base, adapter), slots=1, progress=lambda _: None)
    assert str(adapter) in str(caught.value)
    return str(caught.value)


def configure(adapter, **changes):
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize("kernels", ["compiled", "eager"])
@pytest.mark.parametrize("name", ["llama", "mamba2"])
def test_an_adapted_model_answers_as_peft_does(name, kernels, tiny_folder, tmp_path):
    """Both families, both ways to compute; and not as without the adapter."""
    expected = tiny_adapters.write(name, tiny_folder(name), tmp_path)
    got = logits(tuned(name, tiny_folder(name), tmp_path), kernels)

    assert float((got - expected).abs().max()) < ROUNDING
    assert float((got - logits(tiny_models.resolved(name, tiny_folder(name)))).abs().max()) > 0.1


@pytest.mark.parametrize(
    "options",
    [
        {"use_rslora": True},
        {"rank_pattern": {"q_proj": 2, "layers.1.self_attn.v_proj": 6}},
        {"alpha_pattern": {"^model.layers.0.self_attn.q_proj": 32, "down_proj": 2}},
        {"layers_to_transform": [0, 2]},
        {"target_modules": r".*\.1\..*up_proj"},
        {"target_modules": "all-linear"},
    ],
    ids=str,
)
def test_ranks_scales_and_targets_are_peft_s(options, tiny_folder, tmp_path):
    """Patterns match as they do there; what has no matrices stays as it is."""
    expected = tiny_adapters.write("llama", tiny_folder("llama"), tmp_path, **options)
    got = logits(tuned("llama", tiny_folder("llama"), tmp_path))

    assert float((got - expected).abs().max()) < ROUNDING


def test_sums_are_rounded_once(tmp_path):
    """bfloat16 weights are the float32 sums of the bfloat16 base and the adapter, rounded."""
    base = tiny_models.network("llama", dtype=torch.bfloat16)
    base.save_pretrained(tmp_path / "base")
    model = tiny_adapters.adapted("llama", tmp_path / "base")
    model.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    whole = model.merge_and_unload().to(torch.bfloat16)  # of a float32 copy of the base
    whole.save_pretrained(tmp_path / "whole")
    expected = logits(tiny_models.resolved("llama", tmp_path / "whole", dtype="bfloat16"))
    got = logits(tuned("llama", tmp_path / "base", tmp_path / "adapter", dtype="bfloat16"))

    assert torch.equal(got, expected)


def test_an_adapter_is_quantized_with_its_base(tiny_folder, adapter):
    """The variant says so, and the matrices that are quantized are the merged ones."""
    base = tiny_folder("llama")
    plain, small = (
        logits(tuned("llama", base, adapter, quantization=quantization))
        for quantization in (None, "int8")
    )

    difference = float((plain - small).abs().mean())
    assert (
        0 < difference < float((plain - logits(tiny_models.resolved("llama", base))).abs().mean())
    )


def test_the_base_is_not_changed(tiny_folder, adapter):
    """Its file is what it was, and the model without the adapter answers as before."""
    base = tiny_folder("llama")
    before = (base / "model.safetensors").read_bytes()
    plain = logits(tiny_models.resolved("llama", base))
    logits(tuned("llama", base, adapter))

    assert (base / "model.safetensors").read_bytes() == before
    assert torch.equal(logits(tiny_models.resolved("llama", base)), plain)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"peft_type": "LOHA"}, "peft_type"),
        ({"use_dora": True}, "use_dora"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"trainable_token_indices": [3]}, "trainable_token_indices"),
        ({"target_parameters": ["mlp.experts"]}, "target_parameters"),
        ({"bias": "all"}, "bias"),
        ({"lora_bias": True}, "lora_bias"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights"),
        ({"layer_replication": [[0, 2]]}, "layer_replication"),
        ({"an_option_of_the_future": 1}, "an_option_of_the_future"),
        ({"target_modules": ["q_proj", "gate_proj"]}, "gate_proj"),
        ({"r": 8}, "rank is 8"),
        ({"r": 0}, "r`"),
    ],
    ids=str,
)
def test_other_kinds_are_refused_by_name(changes, named, tiny_folder, adapter):
    """What the arithmetic does not cover is never served as if it did."""
    configure(adapter, **changes)

    assert named in refusal(tiny_folder("llama"), adapter)


def spoil(adapter, change):
    tensors = load_file(adapter / "adapter_model.safetensors")
    change(tensors)
    save_file(tensors, adapter / "adapter_model.safetensors")


KEY = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda t: t.pop(f"{KEY}.lora_B.weight"), "only one of two matrices"),
        (lambda t: t.update({f"{KEY}.lora_magnitude_vector": torch.ones(1)}), "magnitude"),
        (lambda t: t.update({"base_model.model.lm_head.weight": torch.ones(1)}), "lm_head"),
        (lambda t: t.update({f"{KEY}.lora_A.weight": torch.ones(4, 63)}), "(64, 63)"),
        (lambda t: t.update({f"{KEY}.lora_A.weight": torch.full((4, 64), torch.nan)}), "finite"),
        (lambda t: t.clear(), "no matrices"),
    ],
)
def test_wrong_tensors_are_refused_by_name(change, named, tiny_folder, adapter):
    """Missing, of another shape, of another kind, not finite."""
    spoil(adapter, change)

    assert named in refusal(tiny_folder("llama"), adapter)


def test_an_adapter_of_another_model_is_refused(tiny_folder, tmp_path):
    """The first layer that the model lacks is named."""
    tiny_adapters.write("mamba2", tiny_folder("mamba2"), tmp_path)

    assert "backbone.layers.0.mixer.in_proj" in refusal(tiny_folder("llama"), tmp_path)


def test_layers_that_are_not_linear_are_refused(tiny_folder, tmp_path):
    """An embedding's adapter has matrices of another form."""
    tiny_adapters.write("llama", tiny_folder("llama"), tmp_path, target_modules=["embed_tokens"])

    assert "lora_embedding" in refusal(tiny_folder("llama"), tmp_path)


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning")
def test_shared_weights_are_refused(tmp_path):
    """Merged into tied embeddings, it would change what it was not trained for."""
    base = tiny_models.write("llama", tmp_path / "base", tie_word_embeddings=True)
    tiny_adapters.write("llama", base, tmp_path / "adapter", target_modules=["lm_head"])

    assert "lm_head, whose weights other layers use" in refusal(base, tmp_path / "adapter")


def test_missing_files_are_named(tiny_folder, adapter):
    """Config and weights; a pickle beside them does not help."""
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    assert "has no adapter_model.safetensors; pickle" in refusal(tiny_folder("llama"), adapter)
    (adapter / "adapter_config.json").unlink()
    assert "adapter_config.json" in refusal(tiny_folder("llama"), adapter)
