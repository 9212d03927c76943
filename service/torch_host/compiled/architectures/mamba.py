"""Mamba-1 and Falcon-Mamba: one selective state space mixer per layer."""

from typing import Any

from service.torch_host.compiled.blocks.assembly import Assembly
from service.torch_host.compiled.blocks.mamba1 import add_mixer
from service.torch_host.compiled.ops.selective_scan import Norms


def assemble_mamba(network: Any, a: Assembly) -> None:  # noqa: ANN401 - transformers' modules
    """Mamba; Falcon-Mamba, which normalizes B, C and the time step, without weights."""
    config, model = a.config, network.backbone
    head = a.begin(model.embeddings, network.lm_head)
    eps = getattr(config, "mixer_rms_eps", None)
    norms = None if eps is None else Norms(None, None, None, eps)
    for layer in model.layers:
        x = a.normed(layer.norm.weight, config.layer_norm_epsilon)
        add_mixer(a, x, layer.mixer, norms)
    a.finish(model.norm_f.weight, config.layer_norm_epsilon, head)
