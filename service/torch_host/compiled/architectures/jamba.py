"""Jamba: Mamba-1 mixers and a few attention layers, each before an MLP or its experts."""

from typing import Any

from service.torch_host.compiled.blocks.assembly import Assembly
from service.torch_host.compiled.blocks.attention import add_attention
from service.torch_host.compiled.blocks.experts import add_experts
from service.torch_host.compiled.blocks.mamba1 import add_mixer
from service.torch_host.compiled.ops.activations import activation_named
from service.torch_host.compiled.ops.experts import Routing
from service.torch_host.compiled.ops.selective_scan import Norms


def assemble_jamba(network: Any, a: Assembly) -> None:  # noqa: ANN401 - transformers' modules
    """Jamba; its attention has no positions."""
    config, model = a.config, network.model
    eps = config.rms_norm_eps
    function = activation_named(config.hidden_act)
    head = a.begin(model.embed_tokens, network.lm_head)
    for layer in model.layers:
        x = a.normed(layer.input_layernorm.weight, eps)
        if hasattr(layer, "mamba"):
            mixer = layer.mamba
            delta, inputs, outputs = mixer.dt_layernorm, mixer.b_layernorm, mixer.c_layernorm
            add_mixer(a, x, mixer, Norms(delta.weight, inputs.weight, outputs.weight, eps))
        else:
            add_attention(a, x, layer.self_attn, angles=None)
        x, mlp = a.normed(layer.pre_ff_layernorm.weight, eps), layer.feed_forward
        if hasattr(mlp, "experts"):
            routing = Routing(config.num_experts, config.num_experts_per_tok)
            add_experts(a, x, mlp.router, mlp.experts, routing, function)
        else:
            a.add_gated_mlp(x, mlp, config.intermediate_size, function)
    a.finish(model.final_layernorm.weight, eps, head)
