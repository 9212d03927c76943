"""A network on the meta device, for a program whose matrices are read from a file."""

from collections.abc import Mapping

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel


def values_left(network: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Return the parameters and buffers that keep values once a program took the matrices out."""
    named = (*network.named_parameters(), *network.named_buffers())
    return {name: tensor.detach().contiguous() for name, tensor in named if tensor.numel()}


def meta_network(
    path: str, dtype: torch.dtype, values: Mapping[str, torch.Tensor]
) -> PreTrainedModel:
    """Build the network of a folder's config on the meta device, with these values in place.

    Raises ValueError for a value that the network has no place for.
    """
    config = AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    with torch.device("meta"):
        network: PreTrainedModel = AutoModelForCausalLM.from_config(
            config.get_text_config(decoder=True), dtype=dtype, trust_remote_code=False
        )
    network.eval().requires_grad_(requires_grad=False)
    shared: dict[int, list[str]] = {}
    for name, parameter in network.named_parameters(remove_duplicate=False):
        shared.setdefault(id(parameter), []).append(name)
    tied = {names[0]: names for names in shared.values()}
    for name, value in values.items():
        for place in tied.get(name, [name]):
            _put(network, place, value)
    return network


def _put(network: PreTrainedModel, name: str, value: torch.Tensor) -> None:
    owner, _, last = name.rpartition(".")
    module = network.get_submodule(owner)
    if last in module._buffers:  # noqa: SLF001 - as torch's own state dictionaries are loaded
        module._buffers[last] = value  # noqa: SLF001
    elif last in module._parameters:  # noqa: SLF001
        setattr(module, last, torch.nn.Parameter(value, requires_grad=False))
    else:
        raise ValueError(f"the model has no {name}")
