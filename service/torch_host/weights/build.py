"""The device that holds models, and the description of a build for records."""

import numba
import torch
import transformers

from model_registry.spec import ResolvedModel
from service.core.events import ModelBuild

ENGINE_VERSION = (
    f"torch {torch.__version__}, transformers {transformers.__version__}, numba {numba.__version__}"
)


def device() -> torch.device:
    """Return the device that holds models: the first CUDA device, else the CPU."""
    return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")


def device_name() -> str:
    """Return the device's name for records."""
    chosen = device()
    return "cpu" if chosen.type == "cpu" else f"{chosen} {torch.cuda.get_device_name(chosen)}"


def build_of(resolved: ResolvedModel, kernel_path: str) -> ModelBuild:
    """Describe a model that runs on a kernel path."""
    return ModelBuild(
        weights_sha256=resolved.weights_sha256,
        dtype=resolved.dtype,
        quantization=resolved.quantization,
        engine="torch",
        engine_version=ENGINE_VERSION,
        device=device_name(),
        kernel_path=kernel_path,
        state_source="measured",
    )
