"""Jamba: Mamba-1 mixers and a few attention layers, each before an MLP or its experts."""

from typing import Any

from service.engines.torch.compiled.architectures.mamba import add_mixer
from service.engines.torch.compiled.blocks import Assembly
from service.engines.torch.compiled.experts_block import add_experts
from service.engines.torch.compiled.ops.experts import Routing
from service.engines.torch.compiled.ops.gates import activation_named
from service.engines.torch.compiled.ops.selective_scan import Norms
from service.engines.torch.compiled.program import Buffer


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
            _add_attention(a, x, layer.self_attn)
        x, mlp = a.normed(layer.pre_ff_layernorm.weight, eps), layer.feed_forward
        if hasattr(mlp, "experts"):
            routing = Routing(config.num_experts, config.num_experts_per_tok)
            add_experts(a, x, mlp.router, mlp.experts, routing, function)
        else:
            gate_up = a.pack(mlp.gate_proj, mlp.up_proj)
            gated = a.gated_mlp(x, gate_up, config.intermediate_size, function)
            a.add(gated, a.pack(mlp.down_proj))
    a.finish(model.final_layernorm.weight, eps, head)


def _add_attention(a: Assembly, x: Buffer, attention: Any) -> None:  # noqa: ANN401
    config = a.config
    heads = a.slots.attention(
        config.num_attention_heads, config.num_key_value_heads, attention.head_dim
    )
    qkv = a.pack(attention.q_proj, attention.k_proj, attention.v_proj)
    mixed = a.attention(x, qkv, heads, angles=None, scale=attention.scaling)
    a.add(mixed, a.pack(attention.o_proj))
