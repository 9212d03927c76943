"""Granite 4: Mamba-2's mixers or attention, then experts beside an MLP that every token shares."""

from typing import Any

from service.torch_host.compiled.blocks.assembly import Assembly
from service.torch_host.compiled.blocks.attention import add_attention
from service.torch_host.compiled.blocks.experts import add_experts
from service.torch_host.compiled.blocks.mamba2 import add_mamba2
from service.torch_host.compiled.blocks.rotary import angles_of
from service.torch_host.compiled.ops.activations import activation_named
from service.torch_host.compiled.ops.experts import Routing


def assemble_granite(network: Any, a: Assembly) -> None:  # noqa: ANN401 - transformers' modules
    """Granite 4 (`granitemoehybrid`), which scales each block by `residual_multiplier`."""
    config, model = a.config, network.model
    function = activation_named(config.hidden_act)
    residual = float(config.residual_multiplier)
    head = a.begin(model.embed_tokens, network.lm_head, scale=float(config.embedding_multiplier))
    angles = None if model.rotary_emb is None else angles_of(a.program, model.rotary_emb)
    routing = Routing(config.num_local_experts, config.num_experts_per_tok, normalized=True)
    for layer in model.layers:
        x = a.normed(layer.input_layernorm.weight, config.rms_norm_eps)
        if layer.mamba is not None:
            add_mamba2(a, x, layer.mamba, scale=residual)
        else:
            add_attention(a, x, layer.self_attn, angles=angles, scale=residual)
        x = a.normed(layer.post_attention_layernorm.weight, config.rms_norm_eps)
        if layer.has_experts:
            moe = layer.block_sparse_moe
            add_experts(a, x, moe.router, moe.experts, routing, function, scale=residual)
        shared = layer.shared_mlp
        gate_up = a.pack(shared.input_linear)
        gated = a.gated_mlp(x, gate_up, config.shared_intermediate_size, function)
        a.add_layer(gated, shared.output_linear, scale=residual)
    scale = 1.0 / float(config.logits_scaling)
    a.finish(model.norm.weight, config.rms_norm_eps, head, scale=scale)
