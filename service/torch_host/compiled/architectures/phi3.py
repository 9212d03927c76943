"""Phi-3: Llama with fused QKV and gate-up projections, and sliding windows."""

from typing import Any

from service.torch_host.compiled.blocks.assembly import Assembly
from service.torch_host.compiled.blocks.attention import add_attention
from service.torch_host.compiled.blocks.rotary import angles_of
from service.torch_host.compiled.ops.activations import activation_named


def assemble_phi3(network: Any, a: Assembly) -> None:  # noqa: ANN401 - transformers' modules
    """Phi-3, Phi-3.5-mini, Phi-4."""
    config, model = a.config, network.model
    function = activation_named(config.hidden_act)
    head = a.begin(model.embed_tokens, network.lm_head)
    angles = angles_of(a.program, model.rotary_emb)
    for layer in model.layers:
        attention, mlp = layer.self_attn, layer.mlp
        x = a.normed(layer.input_layernorm.weight, config.rms_norm_eps)
        add_attention(
            a,
            x,
            attention,
            angles=angles,
            qkv=a.pack(attention.qkv_proj),
            window_tokens=config.sliding_window,
        )
        x = a.normed(layer.post_attention_layernorm.weight, config.rms_norm_eps)
        gated = a.gated_mlp(x, a.pack(mlp.gate_up_proj), config.intermediate_size, function)
        a.add(gated, a.pack(mlp.down_proj))
    a.finish(model.norm.weight, config.rms_norm_eps, head)
