"""Qwen3-Next and Qwen3.5: gated delta rules, gated attention in some layers, experts or one MLP."""

from typing import Any

import torch
from torch import nn

from service.torch_host.compiled.blocks.assembly import Assembly
from service.torch_host.compiled.blocks.attention import attention_of, heads_of
from service.torch_host.compiled.blocks.experts import add_experts
from service.torch_host.compiled.blocks.rotary import angles_of
from service.torch_host.compiled.kernel import Buffer
from service.torch_host.compiled.ops.activations import Activation, act_and_mul, activation_named
from service.torch_host.compiled.ops.attention import HeadNorms
from service.torch_host.compiled.ops.convolution import convolution
from service.torch_host.compiled.ops.delta_rule import delta_rule
from service.torch_host.compiled.ops.experts import Routing
from service.torch_host.compiled.ops.gated_norm import gated_norm
from service.torch_host.compiled.packing import Packed
from service.torch_host.compiled.uncompilable import Uncompilable


def assemble_qwen3_next(network: Any, a: Assembly) -> None:  # noqa: ANN401 - transformers' modules
    """Qwen3-Next; Qwen3.5's text models, whose projections are separate matrices."""
    config, model = a.config, network.model
    function = activation_named(config.hidden_act)
    if function is not Activation.SILU:
        raise Uncompilable(f"there is no short convolution with {config.hidden_act} behind it")
    head = a.begin(model.embed_tokens, network.lm_head)
    angles = angles_of(a.program, model.rotary_emb)
    for layer in model.layers:
        x = a.normed(_weight(layer.input_layernorm), config.rms_norm_eps)
        if hasattr(layer, "linear_attn"):
            _add_delta_rule(a, x, layer.linear_attn)
        else:
            _add_attention(a, x, layer.self_attn, angles)
        x = a.normed(_weight(layer.post_attention_layernorm), config.rms_norm_eps)
        if hasattr(layer.mlp, "experts"):
            _add_experts(a, x, layer.mlp, function)
        else:
            a.add_gated_mlp(x, layer.mlp, layer.mlp.intermediate_size, function)
    a.finish(_weight(model.norm), config.rms_norm_eps, head)


def _weight(norm: Any) -> torch.Tensor:  # noqa: ANN401
    """Weight of a norm, which stores its difference from one."""
    weight: torch.Tensor = norm.weight.float() + 1
    return weight


def _add_attention(a: Assembly, x: Buffer, attention: Any, angles: Buffer) -> None:  # noqa: ANN401
    """Attention with output gates, which the query projection also computes."""
    config, heads = a.config, heads_of(a, attention)
    # Each head's queries are followed by its gates.
    _permute(attention.q_proj, _by_part(heads.queries, [heads.size, heads.size]))
    packed = a.pack(attention.q_proj, attention.k_proj, attention.v_proj)
    both = a.project(x, packed, "queries, gates, keys and values")
    mixed = attention_of(
        a,
        both,
        heads,
        angles=angles,
        scale=attention.scaling,
        gated=True,
        norms=HeadNorms(_weight(attention.q_norm), _weight(attention.k_norm), config.rms_norm_eps),
    )
    a.add(mixed, a.pack(attention.o_proj))


def _add_delta_rule(a: Assembly, x: Buffer, mixer: Any) -> None:  # noqa: ANN401
    """A gated delta rule behind a short convolution; its outputs are normalized and gated."""
    program = a.program
    weight = mixer.conv1d.weight.squeeze(1)
    channels, heads, values = mixer.conv_dim, mixer.num_v_heads, mixer.value_dim
    large, small = _pack_delta_rule(a, mixer)
    both = a.project(x, large, "queries, keys, values and gates")
    steps = a.project(x, small, "b and a")
    mixed = program.buffer("queries, keys and values", channels)
    conv_state = a.slots.convolution(weight.shape[0], weight.shape[1], weight.dtype)
    state = a.slots.recurrent(heads, mixer.head_k_dim, mixer.head_v_dim)
    convolution(
        program,
        both.columns(0, channels),
        mixed,
        weight,
        mixer.conv1d.bias,
        conv_state,
        silu=True,
    )
    answers = delta_rule(
        program,
        mixed,
        steps.columns(heads, heads),
        steps.columns(0, heads),
        mixer.A_log,
        mixer.dt_bias,
        state,
        key_heads=mixer.num_k_heads,
    )
    opened = program.operand_buffer("answers", values)
    gated_norm(
        program,
        answers,
        both.columns(channels, values),
        mixer.norm.weight.repeat(heads),
        opened,
        eps=mixer.norm.variance_epsilon,
        groups=heads,
        norm_before_gate=True,
    )
    a.add(opened, a.pack(mixer.out_proj))


def _pack_delta_rule(a: Assembly, mixer: Any) -> tuple[Packed, Packed]:  # noqa: ANN401
    """Split the rows for queries, keys, values and gates from those for b and a."""
    if hasattr(mixer, "in_proj_qkv"):
        large = a.pack(mixer.in_proj_qkv, mixer.in_proj_z)
        return large, a.pack(mixer.in_proj_b, mixer.in_proj_a, exact=True)
    # Qwen3-Next's lie together key head by key head.
    heads, key = mixer.num_k_heads, mixer.head_k_dim
    shared = mixer.num_v_heads // heads
    value = shared * mixer.head_v_dim
    _permute(mixer.in_proj_qkvz, _by_part(heads, [key, key, value, value]))
    _permute(mixer.in_proj_ba, _by_part(heads, [shared, shared]))
    return a.pack(mixer.in_proj_qkvz), a.pack(mixer.in_proj_ba, exact=True)


def _permute(layer: Any, rows: torch.Tensor) -> None:  # noqa: ANN401
    """Put a linear layer's outputs into another order."""
    layer.weight = nn.Parameter(layer.weight[rows], requires_grad=False)
    if layer.bias is not None:
        layer.bias = nn.Parameter(layer.bias[rows], requires_grad=False)


def _by_part(heads: int, parts: list[int]) -> torch.Tensor:
    """Rows that lie head by head, each in parts, in the order of their parts."""
    rows = torch.arange(heads * sum(parts)).view(heads, -1)
    return torch.cat([part.flatten() for part in torch.split(rows, parts, dim=1)])


def _add_experts(a: Assembly, x: Buffer, mlp: Any, function: Activation) -> None:  # noqa: ANN401
    """Routed experts, and a gated shared expert for every token."""
    config, program, shared = a.config, a.program, mlp.shared_expert
    routing = Routing(
        config.num_experts, config.num_experts_per_tok, normalized=config.norm_topk_prob
    )
    add_experts(a, x, mlp.gate, mlp.experts, routing, function)
    width = shared.intermediate_size
    both = a.project(x, a.pack(shared.gate_proj, shared.up_proj), "gate and up of shared expert")
    opening = a.project(x, a.pack(mlp.shared_expert_gate, exact=True), "opening of shared expert")
    opened = program.operand_buffer("opened shared expert", width)
    gates, ups = both.columns(0, width), both.columns(width, width)
    # The opening belongs to what the last matrix makes, but scales what goes into it just as well,
    # because no bias is added there.
    act_and_mul(program, gates, ups, opened, function, openings=opening)
    a.add(opened, a.pack(shared.down_proj))
