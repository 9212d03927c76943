"""Converts the measured models to GGUF, so that llama.cpp runs the same weights.

    python benchmarks/engines/to_gguf.py

Only what these models need: no tokenizer (prompts are token ids), and no scaled RoPE. What a GGUF
file of an architecture holds is what llama.cpp's `convert_hf_to_gguf.py` writes.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import torch
from gguf import MODEL_ARCH, GGMLQuantizationType, GGUFWriter
from models import GGUF_TYPES, MODELS, folder
from models import gguf as gguf_path
from safetensors import safe_open

ARCHITECTURES = {
    "llama": MODEL_ARCH.LLAMA,
    "mamba": MODEL_ARCH.MAMBA,
    "mamba2": MODEL_ARCH.MAMBA2,
    "falcon_h1": MODEL_ARCH.FALCON_H1,
    "granitemoehybrid": MODEL_ARCH.GRANITE_HYBRID,
}
TYPES = {"bf16": GGMLQuantizationType.BF16, "q8_0": GGMLQuantizationType.Q8_0}
#: Matrices that llama.cpp wants in float32.
FLOAT32 = ("ssm_conv1d.weight", "ssm_a", "ssm_d", "ssm_norm.weight")
ENDLESS_TOKENS = 2**20


def convert(source: Path, target: Path, kind: str) -> None:
    """Write a model's GGUF file. Raises KeyError for an architecture that is not known."""
    config = json.loads((source / "config.json").read_text())
    architecture = ARCHITECTURES[config["model_type"]]
    target.parent.mkdir(parents=True, exist_ok=True)
    writer = GGUFWriter(target, gguf.MODEL_ARCH_NAMES[architecture])
    _add_common(writer, config)
    if config["model_type"] != "llama":
        _add_recurrent(writer, config)
    names = gguf.get_tensor_name_map(architecture, config["num_hidden_layers"])
    for name, tensor in _tensors(source, config):
        new_name = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if new_name is None:
            raise KeyError(name)
        data = tensor.float().numpy()
        quantization = GGMLQuantizationType.F32
        if data.ndim > 1 and not new_name.endswith(FLOAT32):
            blocked = data.shape[-1] % gguf.GGML_QUANT_SIZES[TYPES[kind]][0] == 0
            quantization = TYPES[kind] if blocked else GGMLQuantizationType.BF16
        writer.add_tensor(
            new_name, gguf.quants.quantize(data, quantization), raw_dtype=quantization
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_common(writer: GGUFWriter, config: dict[str, Any]) -> None:
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config.get("max_position_embeddings", ENDLESS_TOKENS))
    writer.add_embedding_length(config["hidden_size"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("none")
    epsilon: float = config["rms_norm_eps" if "rms_norm_eps" in config else "layer_norm_epsilon"]
    writer.add_layer_norm_rms_eps(epsilon)
    if "num_attention_heads" not in config:
        writer.add_feed_forward_length(0)
        writer.add_head_count(0)
        return
    heads = config["num_attention_heads"]
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    rope = config.get("rope_parameters", config)
    writer.add_rope_freq_base(rope["rope_theta"])
    kv_heads = config["num_key_value_heads"]
    if config["model_type"] != "granitemoehybrid":
        writer.add_head_count_kv(kv_heads)
        return
    writer.add_head_count_kv(
        [kv_heads if kind == "full_attention" else 0 for kind in config["layer_types"]]
    )
    writer.add_rope_scaling_finetuned(config["position_embedding_type"] == "rope")
    writer.add_embedding_scale(config["embedding_multiplier"])
    writer.add_residual_scale(config["residual_multiplier"])
    writer.add_logit_scale(config["logits_scaling"])
    writer.add_attention_scale(config["attention_multiplier"])


def _add_recurrent(writer: GGUFWriter, config: dict[str, Any]) -> None:
    prefix = "mamba_" if "mamba_n_heads" in config else ""
    inner = config.get("mamba_d_ssm") or config["hidden_size"] * config[f"{prefix}expand"]
    writer.add_ssm_conv_kernel(config["mamba_d_conv" if prefix else "conv_kernel"])
    writer.add_ssm_inner_size(inner)
    writer.add_ssm_state_size(config["mamba_d_state" if prefix else "state_size"])
    if config["model_type"] == "mamba":
        writer.add_ssm_time_step_rank(config["time_step_rank"])
        writer.add_ssm_dt_b_c_rms(value=False)
        return
    # Of Mamba-2, llama.cpp keeps the number of heads under this name.
    writer.add_ssm_time_step_rank(config["mamba_n_heads" if prefix else "num_heads"])
    writer.add_ssm_group_count(config[f"{prefix}n_groups"])


def _tensors(source: Path, config: dict[str, Any]) -> Iterator[tuple[str, torch.Tensor]]:
    """The weights as llama.cpp lays them out, under names that gguf's map knows."""
    for file in sorted(source.glob("*.safetensors")):
        with safe_open(file, "pt") as weights:
            for name in weights.keys():  # noqa: SIM118 - not a mapping
                if name != "lm_head.weight" or not config["tie_word_embeddings"]:
                    yield from _laid_out(name, weights.get_tensor(name), config)


def _laid_out(
    name: str, tensor: torch.Tensor, config: dict[str, Any]
) -> Iterator[tuple[str, torch.Tensor]]:
    last = name.rpartition(".")[2]
    heads = config.get("num_attention_heads", 0)
    if config["model_type"] == "llama" and name.endswith("q_proj.weight"):
        yield name, _interleaved(tensor, heads)
    elif config["model_type"] == "llama" and name.endswith("k_proj.weight"):
        yield name, _interleaved(tensor, config["num_key_value_heads"])
    elif name.endswith("shared_mlp.input_linear.weight"):
        layer = name.partition(".shared_mlp")[0]
        gate, up = tensor.chunk(2)
        yield f"{layer}.mlp.gate_proj.weight", gate
        yield f"{layer}.mlp.up_proj.weight", up
    elif name.endswith("shared_mlp.output_linear.weight"):
        yield f"{name.partition('.shared_mlp')[0]}.mlp.down_proj.weight", tensor
    elif name.endswith("conv1d.weight"):
        yield name, tensor.squeeze(1)
    elif last == "A_log":
        decay = -torch.exp(tensor.float())
        yield name, decay if decay.ndim > 1 else decay[:, None]
    elif last == "D" and config["model_type"] != "mamba":
        yield name, tensor[:, None]
    elif last == "dt_bias":
        yield name.removesuffix("dt_bias") + "dt_proj.bias", tensor
    elif name.endswith(("mixer.norm.weight", "mamba.norm.weight")):
        groups = config.get("n_groups") or config["mamba_n_groups"]
        yield name, tensor.view(groups, -1)
    else:
        yield name, tensor


def _interleaved(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows of a head from halves (as transformers rotates them) to pairs (as llama.cpp does)."""
    halves = weight.view(heads, 2, weight.shape[0] // heads // 2, weight.shape[1])
    return halves.swapaxes(1, 2).reshape(weight.shape)


def main() -> None:
    """Write the files that are not there."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--type", nargs="+", choices=GGUF_TYPES, default=GGUF_TYPES)
    parser.add_argument("--again", action="store_true", help="write those that are there, too")
    options = parser.parse_args()
    for model in options.model:
        for kind in options.type:
            target = gguf_path(model, kind)
            if options.again or not target.is_file():
                convert(folder(model), target, kind)
                print(f"{target}: {target.stat().st_size / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
