"""Bamba: Mamba-2's mixers, attention in a few layers instead, and a gated MLP after each."""

from typing import Any

from service.torch_host.compiled.blocks.assembly import Assembly
from service.torch_host.compiled.blocks.attention import add_attention
from service.torch_host.compiled.blocks.mamba2 import add_mamba2
from service.torch_host.compiled.blocks.rotary import angles_of
from service.torch_host.compiled.ops.activations import activation_named


def assemble_bamba(network: Any, a: Assembly) -> None:  # noqa: ANN401 - transformers' modules
    """Bamba."""
    config, model = a.config, network.model
    function = activation_named(config.hidden_act)
    head = a.begin(model.embed_tokens, network.lm_head)
    angles = angles_of(a.program, model.rotary_emb)
    for layer in model.layers:
        x = a.normed(layer.input_layernorm.weight, config.rms_norm_eps)
        if hasattr(layer, "mamba"):
            add_mamba2(a, x, layer.mamba)
        else:
            add_attention(a, x, layer.self_attn, angles=angles)
        x = a.normed(layer.pre_ff_layernorm.weight, config.rms_norm_eps)
        a.add_gated_mlp(x, layer.feed_forward, config.intermediate_size, function)
    a.finish(model.final_layernorm.weight, config.rms_norm_eps, head)
