"""What is loaded, and what is refused by name and with the fix."""

import json
from pathlib import Path

import pytest
import torch
import transformers
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from safetensors.torch import load_file, save_file

from model_registry.spec import Quantization, ResolvedModel
from service.core.errors import ModelNotReady
from service.torch_host.compiled.architectures import ASSEMBLERS
from service.torch_host.compiled.kernel import Kernel
from service.torch_host.weights.loading import EAGER, load
from support import oracle, tiny_models


def folder_with(tmp_path: Path, source: Path, **changes: object) -> Path:
    """A copy of a tiny model's folder with changes to its config."""
    config = json.loads((source / "config.json").read_text()) | changes
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").write_bytes((source / "model.safetensors").read_bytes())
    return tmp_path


def refusal(resolved: ResolvedModel) -> str:
    with pytest.raises(ModelNotReady) as caught:
        load(resolved, slots=1, progress=lambda _: None)
    return str(caught.value)


def resolved(folder: Path) -> ResolvedModel:
    return tiny_models.resolved("llama", folder)


@pytest.mark.parametrize("kind", ["recurrent_gemma", "rwkv", "mixtral"])
def test_types_that_cannot_be_served_are_refused_by_name(tmp_path, kind):
    """State on the module, or a type that is not held against transformers: both are named."""
    transformers.AutoConfig.for_model(kind).save_pretrained(tmp_path)

    assert kind in refusal(resolved(tmp_path))


def test_a_missing_folder_names_the_pull(tmp_path):
    """A model that is not there is answered with the command that fetches it."""
    assert "triptych models pull tiny-llama" in refusal(resolved(tmp_path / "nowhere"))


def test_a_config_that_is_none_names_the_file(tmp_path):
    """A broken config.json is named with its path."""
    (tmp_path / "config.json").write_text("{")

    assert str(tmp_path / "config.json") in refusal(resolved(tmp_path))


def test_missing_tensors_are_not_made_up(tmp_path, tiny_folder):
    """Weights that lack a tensor are refused; transformers alone would draw it at random."""
    folder = folder_with(tmp_path, tiny_folder("llama"))
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})

    assert "model.layers.1.mlp.up_proj.weight" in refusal(resolved(folder))


def test_tensors_of_another_shape_are_refused(tmp_path, tiny_folder):
    """Weights that do not fit their config are refused."""
    folder = folder_with(tmp_path, tiny_folder("llama"), intermediate_size=80)

    assert "cannot load" in refusal(resolved(folder))


def test_truncated_weights_are_refused(tmp_path, tiny_folder):
    """A safetensors file that ends early is refused."""
    folder = folder_with(tmp_path, tiny_folder("llama"))
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])

    assert "tiny-llama" in refusal(resolved(folder))


def test_pickled_weights_are_refused(tmp_path, tiny_folder):
    """A folder with nothing but pickled weights does not load."""
    folder = folder_with(tmp_path, tiny_folder("llama"))
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()

    assert "safetensors" in refusal(resolved(folder))


def test_code_in_the_folder_is_not_run(tmp_path, tiny_folder):
    """A config that points to code of its own gets transformers' code."""
    folder = folder_with(
        tmp_path,
        tiny_folder("llama"),
        auto_map={"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"},
    )
    (folder / "own.py").write_text("raise SystemExit('this code ran')")

    model = load(resolved(folder), slots=1, progress=lambda _: None)

    assert model.vocabulary_tokens == tiny_models.VOCABULARY_TOKENS


def quantized(folder: Path, quantization: Quantization) -> ResolvedModel:
    return tiny_models.quantized("llama", folder, quantization)


def test_a_quantization_without_kernels_is_refused_by_name(tiny_folder):
    """A quantization that is not there is not silently served as plain weights."""
    assert "fp8" in refusal(quantized(tiny_folder("llama"), "fp8"))


def test_int8_without_a_program_is_refused_with_the_reason(tiny_folder):
    """Only compiled programs have int8 matrices: transformers' own code would serve plain ones."""
    with pytest.raises(ModelNotReady, match=r'torch\.kernels is "eager"; use tiny-llama'):
        load(
            quantized(tiny_folder("llama"), "int8"),
            slots=1,
            progress=lambda _: None,
            kernels="eager",
        )


def test_int8_weights_are_smaller_and_named(tiny_folder):
    """An int8 variant's matrices take a quarter of float32's bytes, and its build says so."""
    plain = load(resolved(tiny_folder("llama")), slots=1, progress=lambda _: None)
    small = load(quantized(tiny_folder("llama"), "int8"), slots=1, progress=lambda _: None)

    assert small.build.quantization == "int8"
    assert small.memory().weights_bytes < plain.memory().weights_bytes / 2


def test_frequencies_that_neighbours_change_are_refused(tmp_path, tiny_folder):
    """Dynamic rotary scaling follows the longest sequence of a batch: refused by name."""
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    folder = folder_with(tmp_path, tiny_folder("llama"), rope_parameters=rope)

    assert "dynamic" in refusal(resolved(folder))


def test_progress_goes_from_no_byte_to_all(tiny_folder):
    """Progress names the stages in order and counts up to the size of the weights."""
    seen = []
    load(resolved(tiny_folder("llama")), slots=1, progress=seen.append)

    size = (tiny_folder("llama") / "model.safetensors").stat().st_size
    done = [report.done_bytes for report in seen if report.stage == "weights"]
    assert [seen[0].stage, seen[-1].stage] == ["weights", "slots"]
    assert done == sorted(done)
    assert (done[0], done[-1]) == (0, size)
    assert len(done) > 3


def test_the_text_part_of_a_multimodal_checkpoint_is_served(tmp_path, tiny_folder, tiny_answers):
    """A published Qwen3.5 holds a vision tower too; its text model answers as it does alone."""
    text = tiny_models.config("qwen3_5_text")
    vision = {"depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2}
    whole = transformers.Qwen3_5Config(
        text_config=text.to_dict(),
        vision_config=vision | {"out_hidden_size": 64, "num_position_embeddings": 16},
        tie_word_embeddings=False,
    )
    network = transformers.AutoModelForImageTextToText.from_config(whole)
    alone = transformers.AutoModelForCausalLM.from_pretrained(tiny_folder("qwen3_5_text"))
    network.model.language_model.load_state_dict(alone.model.state_dict())
    network.lm_head.load_state_dict(alone.lm_head.state_dict())
    network.save_pretrained(tmp_path)

    model = load(resolved(tmp_path), slots=1, progress=lambda _: None)

    for answer in tiny_answers("qwen3_5_text")[:2]:
        oracle.assert_same(oracle.alone(model, answer), answer)


@intrinsic
def _wrongly_typed(typing_context, value):
    def generate(context, builder, signature, arguments):
        kind = ir.FunctionType(ir.IntType(64), [ir.IntType(64)])
        rint = cgutils.get_or_insert_function(builder.module, kind, "llvm.rint.f32")
        return builder.call(rint, arguments)

    return types.int64(types.int64), generate


@pytest.fixture
def rejected_kernel(monkeypatch) -> None:
    """Make Llama's program use an LLVM intrinsic by types that this LLVM does not have."""

    def broken(batch_head, thread, threads):
        _wrongly_typed(thread)

    def assemble(_network, assembly):
        assembly.program.add(Kernel(broken))

    monkeypatch.setitem(ASSEMBLERS, "llama", assemble)


@pytest.mark.usefixtures("rejected_kernel")
def test_kernels_that_llvm_rejects_are_not_used(tiny_folder, caplog):
    """A numba whose LLVM knows an intrinsic by other types costs speed, by name, not the model."""
    model = load(resolved(tiny_folder("llama")), slots=1, progress=lambda _: None)

    assert model.build.kernel_path == EAGER
    assert "does not compile the kernel 'broken'" in caplog.text


@pytest.mark.usefixtures("rejected_kernel")
def test_kernels_that_llvm_rejects_are_an_error_where_they_are_asked_for(tiny_folder):
    """`torch.kernels = "compiled"` names the kernel and the versions that cannot compile it."""
    with pytest.raises(ModelNotReady, match=r"numba .* with LLVM .* the kernel 'broken'"):
        load(resolved(tiny_folder("llama")), slots=1, progress=lambda _: None, kernels="compiled")
