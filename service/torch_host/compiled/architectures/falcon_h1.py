"""Falcon-H1: a Mamba-2 mixer and attention side by side in each layer, then a gated MLP."""

from typing import Any

from service.torch_host.compiled.blocks.assembly import Assembly
from service.torch_host.compiled.blocks.attention import attention_of, heads_of
from service.torch_host.compiled.blocks.mamba2 import Multipliers, add_mamba2
from service.torch_host.compiled.blocks.rotary import angles_of
from service.torch_host.compiled.kernel import Buffer
from service.torch_host.compiled.ops.activations import Activation, act_and_mul, activation_named
from service.torch_host.compiled.ops.linear import linear


def assemble_falcon_h1(network: Any, a: Assembly) -> None:  # noqa: ANN401 - transformers' modules
    """Falcon-H1, which scales each product by a multiplier from the config."""
    config, model = a.config, network.model
    function = activation_named(config.hidden_act)
    multipliers = Multipliers(config.ssm_in_multiplier, *config.ssm_multipliers)
    head = a.begin(model.embed_tokens, network.lm_head, scale=config.embedding_multiplier)
    angles = angles_of(a.program, model.rotary_emb)
    for layer in model.layers:
        x = a.normed(layer.input_layernorm.weight, config.rms_norm_eps)
        add_mamba2(a, x, layer.mamba, multipliers=multipliers, scale=config.ssm_out_multiplier)
        _add_attention(a, x, layer.self_attn, angles)
        x = a.normed(layer.pre_ff_layernorm.weight, config.rms_norm_eps)
        _add_mlp(a, x, layer.feed_forward, function)
    scale = config.lm_head_multiplier
    a.finish(model.final_layernorm.weight, config.rms_norm_eps, head, scale=scale)


def _add_attention(a: Assembly, x: Buffer, attention: Any, angles: Buffer) -> None:  # noqa: ANN401
    config = a.config
    qkv = a.pack(attention.q_proj, attention.k_proj, attention.v_proj)
    both = a.project(x, qkv, "queries, keys and values", scale=config.attention_in_multiplier)
    # Keys stay as they are: a product of a query and a key is multiplied as well by its scale.
    scale = attention.scaling * config.key_multiplier
    mixed = attention_of(a, both, heads_of(a, attention), angles=angles, scale=scale)
    a.add_layer(mixed, attention.o_proj, scale=config.attention_out_multiplier)


def _add_mlp(a: Assembly, x: Buffer, mlp: Any, function: Activation) -> None:  # noqa: ANN401
    """Add a gated MLP whose gate is multiplied before its activation function."""
    gate_scale, down_scale = a.config.mlp_multipliers
    gate_bias = None if mlp.gate_proj.bias is None else mlp.gate_proj.bias.float() * gate_scale
    gates = a.pack_weights([mlp.gate_proj.weight], [gate_bias])
    ups = a.pack(mlp.up_proj)
    width = a.config.intermediate_size
    both = a.program.buffer("gate and up", gates.outputs + ups.outputs)
    linear(a.program, x, gates, both.columns(0, width), scale=gate_scale)
    linear(a.program, x, ups, both.columns(gates.outputs, width))
    gated = a.program.operand_buffer("gated by MLP", width)
    first, second = both.columns(0, width), both.columns(gates.outputs, width)
    act_and_mul(a.program, first, second, gated, function)
    a.add_layer(gated, mlp.down_proj, scale=down_scale)
