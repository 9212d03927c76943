"""Gemma 3: norms on both sides of each block, and other angles where attention has windows."""

from typing import Any

import torch

from service.torch_host.compiled.blocks.assembly import Assembly
from service.torch_host.compiled.blocks.attention import attention_of, heads_of
from service.torch_host.compiled.kernel import Buffer
from service.torch_host.compiled.ops.activations import activation_named
from service.torch_host.compiled.ops.attention import HeadNorms
from service.torch_host.compiled.ops.norms import add_norm
from service.torch_host.compiled.ops.rotary import angles
from service.torch_host.compiled.packing import Packed


def assemble_gemma3(network: Any, a: Assembly) -> None:  # noqa: ANN401 - transformers' modules
    """Gemma 3's text models."""
    config, model = a.config, network.model
    function, eps = activation_named(config.hidden_activation), config.rms_norm_eps
    # Of the embedding's type, as it was trained: bfloat16 makes 33.94 an even 34.
    scale = torch.tensor(config.hidden_size**0.5, dtype=model.embed_tokens.weight.dtype).item()
    head = a.begin(model.embed_tokens, network.lm_head, scale=scale)
    turns = {kind: _angles(a, model.rotary_emb, kind) for kind in sorted(set(config.layer_types))}
    for layer, kind in zip(model.layers, config.layer_types, strict=True):
        attention, mlp = layer.self_attn, layer.mlp
        x = a.normed(_weight(layer.input_layernorm), eps)
        qkv = a.pack(attention.q_proj, attention.k_proj, attention.v_proj)
        mixed = attention_of(
            a,
            a.project(x, qkv, "queries, keys and values"),
            heads_of(a, attention, window_tokens=attention.sliding_window),
            angles=turns[kind],
            scale=attention.scaling,
            norms=HeadNorms(_weight(attention.q_norm), _weight(attention.k_norm), eps),
        )
        _add(a, mixed, a.pack(attention.o_proj), layer.post_attention_layernorm)
        x = a.normed(_weight(layer.pre_feedforward_layernorm), eps)
        gate_up = a.pack(mlp.gate_proj, mlp.up_proj)
        gated = a.gated_mlp(x, gate_up, config.intermediate_size, function)
        _add(a, gated, a.pack(mlp.down_proj), layer.post_feedforward_layernorm)
    a.finish(_weight(model.norm), eps, head)


def _weight(norm: Any) -> torch.Tensor:  # noqa: ANN401 - a transformers module
    """Weight of a norm, which stores its difference from one."""
    weight: torch.Tensor = norm.weight.float() + 1
    return weight


def _angles(a: Assembly, rotary: Any, kind: str) -> Buffer:  # noqa: ANN401
    """Angles of one kind of layers."""
    frequencies = getattr(rotary, f"{kind}_inv_freq")
    factor = getattr(rotary, f"{kind}_attention_scaling")
    return angles(a.program, f"angles of {kind}", frequencies, factor=float(factor))


def _add(a: Assembly, x: Buffer, weight: Packed, norm: Any) -> None:  # noqa: ANN401
    """Add a block's product to the stream, normalized."""
    out = a.project(x, weight, "block").columns(0, a.width)
    add_norm(a.program, out, _weight(norm), a.stream, eps=a.config.rms_norm_eps)
