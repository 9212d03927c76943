"""Checks before a load that the torch engine supports a model on a device, by names alone."""

from typing import Final

from model_registry.spec import ResolvedModel
from service.core.errors import ModelNotReady
from service.engines.torch.protocol.messages import KernelChoice

EAGER: Final = "transformers-eager"
"""Kernel path of transformers' own modelling code."""


def check(model: ResolvedModel, *, device: str, kernels: KernelChoice) -> None:
    """Raise ModelNotReady, with the reason, for a model that cannot run on a device.

    Args:
        model: The model and its variant.
        device: The host's device, as `cpu` or `cuda:0 NVIDIA L4`.
        kernels: The setting `torch.kernels`.
    """
    missing = uncompiled(device=device, kernels=kernels)
    if missing is None:
        return
    if model.quantization is not None:
        raise ModelNotReady(
            f"{model.id}: {model.quantization} weights need compiled kernels, but {missing}; "
            f"use {model.spec.id}"
        )
    if kernels == "compiled":
        raise ModelNotReady(
            f'{model.id}: torch.kernels is "compiled", but {missing}; set it to "auto"'
        )


def uncompiled(*, device: str, kernels: KernelChoice) -> str | None:
    """The reason why no model runs on compiled kernels here; None if they may."""
    if kernels == "eager":
        return 'torch.kernels is "eager"'
    if device != "cpu":
        return f"compiled kernels run on the CPU only, and the device is {device}"
    return None
