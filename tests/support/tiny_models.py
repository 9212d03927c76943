"""Tiny checkpoints with random weights, made from configs: one or more for every model type.

`pythonpath` in `pyproject.toml` names this folder, so any test can `import tiny_models`.
"""

from functools import partial
from pathlib import Path

import msgspec
import torch
import transformers as hf
from transformers import AutoModelForCausalLM, PreTrainedConfig

from model_registry.spec import ModelSpec, Quantization, ResolvedModel, Variant
from service.core.events import ModelBuild
from service.torch_host.compiled.model import CompiledModel
from service.torch_host.compiled.quantized import Groups, attach, by_group

VOCABULARY_TOKENS = 128
CONTEXT_TOKENS = 256
WINDOW_TOKENS = 8

_COMMON = {
    "vocab_size": VOCABULARY_TOKENS,
    "hidden_size": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
}
_FOUR = {"num_hidden_layers": 4}
_HEADS = {
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT_TOKENS,
}
_MAMBA2 = {
    "mamba_n_heads": 8,
    "mamba_d_head": 16,
    "mamba_d_state": 16,
    "mamba_n_groups": 2,
    "mamba_chunk_size": 8,
}
_JAMBA = {
    "attn_layer_period": 4,
    "attn_layer_offset": 2,
    "mamba_d_state": 16,
    "mamba_dt_rank": 4,
    "use_mamba_kernels": False,
}
_DELTA = {
    "head_dim": 16,
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 8,
    "layer_types": ["linear_attention", "linear_attention", "full_attention", "linear_attention"],
}
_LONG_ROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "original_max_position_embeddings": 24,
    "short_factor": [1.0 + 0.1 * i for i in range(8)],
    "long_factor": [2.0 + 0.5 * i for i in range(8)],
}
_TYPES: dict[str, type[PreTrainedConfig]] = {
    "bamba": hf.BambaConfig,
    "falcon_h1": hf.FalconH1Config,
    "falcon_mamba": hf.FalconMambaConfig,
    "gemma3_text": hf.Gemma3TextConfig,
    "granitemoehybrid": hf.GraniteMoeHybridConfig,
    "jamba": hf.JambaConfig,
    "lfm2": hf.Lfm2Config,
    "llama": hf.LlamaConfig,
    "mamba": hf.MambaConfig,
    "mamba2": hf.Mamba2Config,
    "nemotron_h": hf.NemotronHConfig,
    "phi3": hf.Phi3Config,
    "phimoe": hf.PhimoeConfig,
    "qwen2": hf.Qwen2Config,
    "qwen3": hf.Qwen3Config,
    "qwen3_5_text": hf.Qwen3_5TextConfig,
    "qwen3_next": hf.Qwen3NextConfig,
    "zamba2": hf.Zamba2Config,
}
#: Name → options; the name begins with the model type.
_OPTIONS: dict[str, dict[str, object]] = {
    "llama": {**_FOUR, **_HEADS},
    "phi3": {**_FOUR, **_HEADS},
    "phi3-window": {**_FOUR, **_HEADS, "sliding_window": WINDOW_TOKENS},
    "phi3-longrope": {
        **_FOUR,
        **_HEADS,
        "original_max_position_embeddings": 24,
        "rope_parameters": _LONG_ROPE,
    },
    "phimoe": {**_FOUR, **_HEADS, "num_local_experts": 4, "num_experts_per_tok": 2},
    "phimoe-longrope": {
        **_FOUR,
        **_HEADS,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "original_max_position_embeddings": 24,
        "rope_parameters": {**_LONG_ROPE, "short_mscale": 1.1, "long_mscale": 1.3},
    },
    "gemma3_text": {
        **_FOUR,
        **_HEADS,
        "head_dim": 16,
        "sliding_window": WINDOW_TOKENS,
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention"] * 2,
        "num_hidden_layers": 6,
    },
    "qwen2": {**_FOUR, **_HEADS},
    "qwen2-window": {
        **_FOUR,
        **_HEADS,
        "use_sliding_window": True,
        "sliding_window": WINDOW_TOKENS,
        "max_window_layers": 2,
    },
    "qwen3": {**_FOUR, **_HEADS, "head_dim": 24},
    "mamba": {**_FOUR, "state_size": 16},
    "falcon_mamba": {**_FOUR, "state_size": 16},
    "mamba2": {
        **_FOUR,
        "num_heads": 8,
        "head_dim": 16,
        "state_size": 16,
        "n_groups": 2,
        "chunk_size": 8,
    },
    "jamba": {**_FOUR, **_HEADS, **_JAMBA, "num_experts": 1, "num_experts_per_tok": 1},
    "jamba-experts": {
        **_FOUR,
        **_HEADS,
        **_JAMBA,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "expert_layer_period": 2,
        "expert_layer_offset": 1,
    },
    "falcon_h1": {**_FOUR, **_HEADS, **_MAMBA2, "mamba_d_ssm": 128},
    "falcon_h1-norm": {**_FOUR, **_HEADS, **_MAMBA2, "mamba_d_ssm": 128, "mamba_rms_norm": True},
    "granitemoehybrid": {
        **_FOUR,
        **_HEADS,
        **_MAMBA2,
        "shared_intermediate_size": 96,
        "num_local_experts": 0,
        "num_experts_per_tok": 0,
        "layer_types": ["mamba", "mamba", "attention", "mamba"],
    },
    "granitemoehybrid-experts": {
        **_FOUR,
        **_HEADS,
        **_MAMBA2,
        "shared_intermediate_size": 96,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "position_embedding_type": "rope",
        "layer_types": ["mamba", "attention", "mamba", "attention"],
    },
    "bamba": {**_FOUR, **_HEADS, **_MAMBA2, "attn_layer_indices": [1]},
    "zamba2": {
        **_HEADS,
        "num_key_value_heads": 4,
        "num_hidden_layers": 6,
        "mamba_d_state": 16,
        "n_mamba_heads": 8,
        "mamba_ngroups": 1,
        "chunk_size": 8,
        "num_mem_blocks": 2,
        "use_shared_attention_adapter": True,
        "adapter_rank": 8,
        "use_mem_rope": True,
        "layers_block_type": [
            "linear_attention",
            "hybrid",
            "linear_attention",
            "hybrid",
            "hybrid",
            "linear_attention",
        ],
    },
    "nemotron_h": {
        **_HEADS,
        "layers_block_type": ["mamba", "mlp", "attention", "moe", "mamba"],
        "head_dim": 16,
        "mamba_num_heads": 8,
        "mamba_head_dim": 16,
        "ssm_state_size": 16,
        "n_groups": 2,
        "chunk_size": 8,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 48,
        "moe_shared_expert_intermediate_size": 48,
    },
    "lfm2": {
        **_FOUR,
        **_HEADS,
        "layer_types": ["conv", "conv", "full_attention", "conv"],
        "block_auto_adjust_ff_dim": False,
    },
    "qwen3_next": {
        **_FOUR,
        **_HEADS,
        **_DELTA,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 48,
        "shared_expert_intermediate_size": 48,
    },
    "qwen3_5_text": {**_FOUR, **_HEADS, **_DELTA},
}
NAMES = tuple(_OPTIONS)
"""Every tiny model; each is a model type, or a type, a hyphen and what is special about it."""


def model_type(name: str) -> str:
    """The `model_type` of a tiny model."""
    return name.partition("-")[0]


def config(name: str, **changes: object) -> PreTrainedConfig:
    """A fresh config."""
    return _TYPES[model_type(name)](**{**_COMMON, **_OPTIONS[name], **changes})


def network(name: str, *, dtype: torch.dtype = torch.float32, **changes: object) -> torch.nn.Module:
    """A model with seeded random weights, of a size that lets every layer move the answer."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        made = AutoModelForCausalLM.from_config(config(name, **changes))
        with torch.no_grad():
            for key, weight in made.named_parameters():
                if "embed" in key:
                    weight.normal_()
                elif "conv" in key and "bias" in key:
                    weight.normal_(0, 0.3)
                elif weight.ndim >= 2 and "A_log" not in key:
                    weight.normal_(0, 1.5 * weight.shape[-1] ** -0.5)
    return made.to(dtype).eval()


def write(name: str, folder: Path, **changes: object) -> Path:
    """Write a checkpoint as published ones are: `config.json` and safetensors."""
    network(name, **changes).save_pretrained(folder)
    return folder


def resolved(name: str, folder: Path, *, dtype: str = "float32") -> ResolvedModel:
    """The tiny model as the registry would hand it to an engine."""
    spec = ModelSpec(
        id=f"tiny-{name.replace('_', '-')}",
        family="transformer",
        licence="Apache-2.0",
        context_tokens=CONTEXT_TOKENS,
        sources=(),
        dtype=dtype,
    )
    return ResolvedModel(spec=spec, variant=None, path=str(folder), weights_sha256=None)


def quantized(
    name: str, folder: Path, quantization: Quantization, *, dtype: str = "float32"
) -> ResolvedModel:
    """A variant of a checkpoint, named by its quantization."""
    plain = resolved(name, folder, dtype=dtype)
    variants = {quantization: Variant(quantization=quantization)}
    spec = msgspec.structs.replace(plain.spec, variants=variants)
    return msgspec.structs.replace(plain, spec=spec, variant=quantization)


def compiled(
    network: torch.nn.Module,
    name: str,
    *,
    slots: int = 1,
    threads: int = 1,
    quantization: Quantization | None = None,
) -> CompiledModel:
    """A network as a compiled program, whose weights it takes.

    The blocks of `gguf` are the linear layers' own weights, rounded to codes of 8 bits.
    """
    dtype = str(network.dtype).removeprefix("torch.")
    build = ModelBuild(
        weights_sha256=None,
        dtype=dtype,
        quantization=None,
        engine="torch",
        engine_version="",
        device="cpu",
        kernel_path="compiled",
    )
    model = resolved(name, Path(), dtype=dtype)
    if quantization is not None:
        model = quantized(name, Path(), quantization, dtype=dtype)
    if quantization == "gguf":
        for layer in network.modules():
            if isinstance(layer, torch.nn.Linear):
                groups = by_group(layer.weight.detach())._replace(code_bits=8)
                attach(layer.weight, partial(_itself, groups))
    return CompiledModel(network, model, build, slots=slots, threads=threads)


def _itself(groups: Groups) -> Groups:
    return groups
