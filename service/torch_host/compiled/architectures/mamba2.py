"""Mamba-2: nothing but mixers, each on the normalized stream."""

from typing import Any

from service.torch_host.compiled.blocks.assembly import Assembly
from service.torch_host.compiled.blocks.mamba2 import add_mamba2


def assemble_mamba2(network: Any, a: Assembly) -> None:  # noqa: ANN401 - transformers' modules
    """Mamba-2, Codestral Mamba."""
    eps, model = a.config.layer_norm_epsilon, network.backbone
    head = a.begin(model.embeddings, network.lm_head)
    for layer in model.layers:
        add_mamba2(a, a.normed(layer.norm.weight, eps), layer.mixer)
    a.finish(model.norm_f.weight, eps, head)
